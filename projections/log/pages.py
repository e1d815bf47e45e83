"""Reading on, page by page: the next page is on its way while one is worked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventlog.flow import Begin, Call, Finish, Flow, Script
from eventlog.keys import ThreadKeys

__all__ = ["Pages", "entry_order", "pages_of"]


def entry_order(entry_id: bytes) -> tuple[int, int]:
    """The sort key of an entry id; anything else sorts before all entry ids."""
    ms, _, number = entry_id.partition(b"-")
    return (int(ms), int(number)) if ms.isdigit() and number.isdigit() else (0, 0)


class Pages:
    """What one call after the other reads. Memory: two pages."""

    def __init__(self, first: Call, following: Callable[[Any], Call | None]) -> None:
        """`following`: the call that goes on from where a reply ended, None if there is no more."""
        self._call: Call | None = first
        self._following = following
        self._begun: Any = None

    @property
    def more(self) -> bool:
        """Whether there is a page that was not read, or may be."""
        return self._call is not None

    def next(self) -> Flow[Any]:
        """The reply that is the next page. One round trip, which goes by while the page before is worked at."""
        assert self._call is not None, "there is no more"
        reply = (yield self._call) if self._begun is None else (yield Finish(self._begun))
        self._call, self._begun = self._following(reply), None
        if self._call is not None:
            self._begun = yield Begin(self._call)
        return reply


def pages_of(keys: ThreadKeys, script: Script, after: bytes, most: int, most_bytes: int) -> Pages:
    """A thread's log behind an entry (b"": all of it), by a script that replies with entries, ids and fields, and whether there may
    be more. A page has `most` entries, and ends early behind `most_bytes` of them.
    """

    def call(after: bytes) -> Call:
        return Call(script, [keys.log], [after, most, most_bytes])

    return Pages(call(after), lambda reply: call(reply[0][-1][0]) if reply[0] and reply[1] else None)
