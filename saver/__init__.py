"""A LangGraph checkpointer on plain Redis Streams.

The names are loaded on first use. Importing LangGraph takes half a second, and some commands of `agentlog` do not need it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from saver.shadowing import refuse_other_floors

if TYPE_CHECKING:
    from saver.embedded import EmbeddedServer
    from saver.options import SaverOptions
    from saver.saver import RedisStreamSaver
    from saver.serializer import StrictSerializer

__all__ = ["EmbeddedServer", "RedisStreamSaver", "SaverOptions", "StrictSerializer"]

_HOMES = {
    "EmbeddedServer": "saver.embedded",
    "RedisStreamSaver": "saver.saver",
    "SaverOptions": "saver.options",
    "StrictSerializer": "saver.serializer",
}

refuse_other_floors()


if not TYPE_CHECKING:  # otherwise type checkers accept any name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found: object = getattr(import_module(_HOMES[name]), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
