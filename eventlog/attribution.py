"""Events record who appended them and why, as `with audit(...)` states it.

The statement is a context variable. So it reaches threads and tasks that copy their context, as those of LangGraph do.
If OpenTelemetry is in use and a span is active, the ids of the span are added.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from typing_extensions import Self

from eventlog.codec import is_plain
from eventlog.errors import InvalidArgument

__all__ = ["audit", "stamp"]

_STAMPS: ContextVar[tuple[Mapping[str, Any], ...]] = ContextVar("audit", default=(MappingProxyType({}),))
"""The stamp of each open block, the innermost last."""
_FROM_METADATA = ("actor", "reason")
FROM_METADATA = "metadata"
"""The value of `actor_source` and `reason_source` in a stamp, where a config's metadata named them."""


class audit(AbstractContextManager, AbstractAsyncContextManager):  # type: ignore[type-arg]  # noqa: N801 - read as a verb
    """Stamps every event that is appended inside its block.

    Use it as `with audit(actor="alice", reason="refund", ticket=42)`, or with `async with`. Nested blocks add up; the
    inner one wins if both have a name. Every reader of the log can read a stamp, even if values are encrypted. Raises
    `InvalidArgument` for anything but plain data, and for the names `actor_source` and `reason_source`.
    """

    def __init__(self, actor: str | None = None, reason: str | None = None, **more: Any) -> None:
        given = {"actor": actor, "reason": reason, **more}
        self._given = {name: value for name, value in given.items() if value is not None}
        if not is_plain(self._given):
            raise InvalidArgument("audit takes plain data: texts, numbers, booleans, and lists and dicts of these.")
        if reserved := [name for name in map(_source, _FROM_METADATA) if name in self._given]:
            raise InvalidArgument(
                f"audit cannot set {reserved[0]!r}, which marks an actor of metadata. Use another name."
            )

    def __enter__(self) -> Self:
        stamps = _STAMPS.get()
        _STAMPS.set((*stamps, {**stamps[-1], **self._given}))
        return self

    def __exit__(self, *_: object) -> None:
        _STAMPS.set(_STAMPS.get()[:-1])

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def stamp(metadata: object = None) -> Mapping[str, Any] | None:
    """The stamp of an event that is appended now, None if there is none.

    `metadata` is that of a config; its `actor` and `reason` count unless a block names them. They are marked, since
    callers of an application often choose the metadata: `actor_source` and `reason_source` are "metadata" then.
    """
    given = _STAMPS.get()[-1]
    if isinstance(metadata, Mapping):
        named = {name: metadata[name] for name in _FROM_METADATA if name not in given and _is_text(metadata.get(name))}
        given = {**named, **{_source(name): FROM_METADATA for name in named}, **given} if named else given
    if "opentelemetry.trace" in sys.modules:
        given = {**given, **_span()}
    return given or None


def _source(name: str) -> str:
    """The name in a stamp of the mark that another name came from metadata."""
    return f"{name}_source"


def _is_text(value: object) -> bool:
    """Whether `value` is text that can be stored."""
    return isinstance(value, str) and is_plain(value)


def _span() -> dict[str, str]:
    """Ids of the active OpenTelemetry span."""
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
