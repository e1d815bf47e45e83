"""Who did it, and why: what is stamped on every event appended inside `with audit(...)`.

A context variable, so it reaches what runs inside the block, in threads and tasks that copy their context as
LangGraph's do. The ids of an OpenTelemetry span are added while one is active, if that package is in use; it is not
required.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from contextvars import ContextVar
from types import MappingProxyType, TracebackType
from typing import Any

from typing_extensions import Self

from eventlog.codec import is_plain
from eventlog.errors import InvalidArgument

__all__ = ["audit", "stamp"]

_STAMPS: ContextVar[tuple[Mapping[str, Any], ...]] = ContextVar("audit", default=(MappingProxyType({}),))
"""What is stamped, the innermost block's last."""
_FROM_METADATA = ("actor", "reason")


class audit(AbstractContextManager, AbstractAsyncContextManager):  # type: ignore[type-arg]  # noqa: N801 - read as a verb
    """Stamps every event appended inside its block: `with audit(actor="alice", reason="refund", ticket=42)`; also `async with`.

    Blocks within each other add up, the inner one counting where both name a thing. What is stamped is readable for whoever can
    read the log, also where values are encrypted. Raises `InvalidArgument` for what is no plain data.
    """

    def __init__(self, actor: str | None = None, reason: str | None = None, **more: Any) -> None:
        given = {"actor": actor, "reason": reason, **more}
        self._given = {name: value for name, value in given.items() if value is not None}
        if not is_plain(self._given):
            raise InvalidArgument("audit takes plain data: texts, numbers, booleans, and lists and dicts of these.")

    def __enter__(self) -> Self:
        """Begins to stamp."""
        stamps = _STAMPS.get()
        _STAMPS.set((*stamps, {**stamps[-1], **self._given}))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Stamps no longer."""
        _STAMPS.set(_STAMPS.get()[:-1])

    async def __aenter__(self) -> Self:
        """Begins to stamp."""
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Stamps no longer."""
        self.__exit__(kind, error, traceback)


def stamp(metadata: object = None) -> Mapping[str, Any] | None:
    """What an event appended now is stamped with; None for nothing.

    `metadata`: a config's, whose `actor` and `reason` count where no block names one.
    """
    given = _STAMPS.get()[-1]
    if isinstance(metadata, Mapping):
        named = {name: metadata[name] for name in _FROM_METADATA if is_text(metadata.get(name))}
        given = {**named, **given} if named else given
    if "opentelemetry.trace" in sys.modules:
        given = {**given, **_span()}
    return given or None


def is_text(value: object) -> bool:
    """Whether it is text that can be stored."""
    return isinstance(value, str) and is_plain(value)


def _span() -> dict[str, str]:
    """Ids of the active OpenTelemetry span."""
    context = sys.modules["opentelemetry.trace"].get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"}
