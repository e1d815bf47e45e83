"""Checks of arguments: configs, ids and numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from eventlog.errors import InvalidArgument
from eventlog.keys import text

__all__ = ["Address", "address_of", "configurable_of", "id_of", "ids_of", "thread_id_of", "whole_number"]


class Address(NamedTuple):
    """The thread, namespace and checkpoint id of a config; None if it lacks one."""

    thread_id: str
    namespace: str | None
    checkpoint_id: str | None

    @property
    def subject(self) -> str:
        """The words by which errors name the thread."""
        return f"thread {self.thread_id!r}"


def thread_id_of(value: object, field: str = "thread_id") -> str:
    """Returns a thread id as text, also of an int, as in LangGraph.

    Raises `TypeError` or `InvalidArgument`, which names the field.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return id_of(value, field)


def id_of(value: object, field: str) -> str:
    """Returns an id as text.

    Raises `TypeError` or `InvalidArgument`, which names the field.
    """
    if not isinstance(value, str):
        raise TypeError(f"{field} must be a string, not {type(value).__name__} ({value!r:.80}); pass the id as text.")
    if not value.isascii():
        text(field, value)
    return value


def ids_of(ids: Sequence[str], field: str) -> list[str]:
    """Returns a list of ids as text.

    Refuses a single string, whose letters would be taken for ids.
    """
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise TypeError(f"{field} must be a list of ids, not {type(ids).__name__}; pass [{ids!r}].")
    return [thread_id_of(one, f"each of {field}") for one in ids]


def whole_number(value: object, field: str) -> int:
    """Returns an int as it is.

    Raises `TypeError`, which names the field, for any other type and for a bool.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{field} must be an int, not {type(value).__name__}.")
    return value


def configurable_of(config: object, field: str) -> Mapping[str, Any]:
    """Returns the config's "configurable", empty if it has none.

    Raises `TypeError` if it is not a config.
    """
    found = config.get("configurable") if isinstance(config, Mapping) else config
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise TypeError(f'{field} must be a mapping like {{"configurable": {{...}}}}, not {config!r:.80}.')
    return found


def address_of(config: Mapping[str, Any] | None) -> Address:
    """Returns the address in `config["configurable"]`.

    Raises `InvalidArgument` if it lacks a thread id, `TypeError` for wrong types.
    """
    configurable = configurable_of(config, "config")
    if configurable.get("thread_id") is None:
        raise InvalidArgument('The config names no thread: pass {"configurable": {"thread_id": "..."}}.')
    namespace = configurable.get("checkpoint_ns")
    checkpoint_id = configurable.get("checkpoint_id")
    return Address(
        thread_id_of(configurable["thread_id"]),
        None if namespace is None else id_of(namespace, "checkpoint_ns"),
        id_of(checkpoint_id, "checkpoint_id") if checkpoint_id else None,
    )
