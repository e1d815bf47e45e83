"""A LangGraph checkpointer on plain Redis Streams.

What is named here is loaded when it is first asked for: LangGraph takes half a second, which a command line that does not need it
should not wait for.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from saver.shadowing import refuse_other_floors

if TYPE_CHECKING:
    from saver.embedded import EmbeddedServer
    from saver.saver import RedisStreamSaver

__all__ = ["EmbeddedServer", "RedisStreamSaver"]

_HOMES = {"EmbeddedServer": "saver.embedded", "RedisStreamSaver": "saver.saver"}

refuse_other_floors()


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
