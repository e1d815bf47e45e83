"""Finds the nodes that ran, for the pointers in the feed.

A checkpoint does not name the nodes that ran for it. It has only the versions of channels that every node has seen
so far. The path of a task that a `Send` started has only a number. The checkpoint before explains both, so a saver
remembers the checkpoints that it put or read. It makes no call for one that it does not know, so a pointer may name
fewer nodes than ran.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["NOTHING", "SENDS", "Known", "KnownCheckpoints", "nodes_of", "targets", "writer_of"]

MOST = 1024
"""The most checkpoints that are known at once."""
SENDS = "__pregel_tasks"
"""The channel of the `Send`s for the next step."""
_PULL, _PUSH = "~__pregel_pull, ", "~__pregel_push, "
"""The first part of a task's path, before the node's name or before the number of its `Send`."""
_OF_SEND = ("", "0000000000")
"""The end of the path after that number. The task of a function has a number too, and another end."""
_HANDLER = ", node_error_handler, 0000000000"
"""The end of the path of a task that handles the error of the node before it."""
_RAN_NOTHING = ("input", "update", "fork")
"""Sources of checkpoints for which no node ran. They mark dropped tasks as seen."""
_NO_NODE = ("", "__")
"""The first two characters of names that are not a user's nodes, but LangGraph's own."""

_Name = tuple[str, str, str]
"""Thread, namespace, checkpoint id."""


class Known(NamedTuple):
    """The part of a checkpoint from which the nodes that ran next are found."""

    seen: Mapping[str, Any]
    """The versions of channels that each node has seen."""
    step: int | None
    sends: Sequence[str]
    """The nodes that `Send`s start next, by number; '' for anything else."""
    audit: Mapping[str, Any] | None = None
    """The audit stamp of its put or read. LangGraph saves some tasks' writes outside the context of the graph."""

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]) -> Known:
        """Returns what is known from a checkpoint.

        The caller must not change its `versions_seen` later.
        """
        seen, step = checkpoint.get("versions_seen"), metadata.get("step")
        sends = checkpoint["channel_values"].get(SENDS)
        return cls(
            seen if isinstance(seen, dict) else {},
            step if type(step) is int else None,
            () if sends is None else targets(sends),
        )


NOTHING = Known({}, None, ())
"""What is known of the missing parent of a first checkpoint."""


class KnownCheckpoints:
    """The checkpoints that a saver put or read last.

    Many threads may use it at once, since each step is one operation of the dictionary.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[_Name, Known] = OrderedDict()

    def get(self, name: _Name) -> Known | None:
        """Returns what is known of a checkpoint, or None."""
        try:
            self._known.move_to_end(name)
            return self._known[name]
        except KeyError:
            return None

    def note(self, name: _Name, known: Known) -> None:
        """Notes a checkpoint that was put or read."""
        self._known[name] = known
        if len(self._known) > MOST:
            self._known.popitem(last=False)


def nodes_of(known: Known, source: object, before: Known | None) -> list[str]:
    """Returns the nodes that ran for a checkpoint, then those that `Send`s started.

    They come in the order in which they ran first. `before` is what is known of the checkpoint's parent.
    """
    if before is None or source in _RAN_NOTHING:
        return []
    earlier = before.seen
    ran = [node for node, versions in known.seen.items() if earlier.get(node) != versions and _is_node(node)]
    return list(dict.fromkeys([*ran, *filter(_is_node, before.sends)])) if before.sends else ran


def writer_of(task_path: str, known: Known | None) -> list[str]:
    """Returns the node whose task wrote to a checkpoint.

    The list is empty if the node is not known. `task_path` is LangGraph's `task_path_str`.
    """
    node = ""
    if task_path.startswith(_PULL):
        node = "" if task_path.endswith(_HANDLER) else task_path[len(_PULL) :]
    elif known is not None and task_path.startswith(_PUSH):
        node = _sent(task_path[len(_PUSH) :], known.sends)
    return [node] if node[:2] not in _NO_NODE else []


def _sent(path: str, sends: Sequence[str]) -> str:
    """Returns the node that a `Send` started, by the rest of its task's path."""
    number, _, rest = path.partition(", ")
    if not number.isdecimal() or rest not in _OF_SEND or int(number) >= len(sends):
        return ""
    return sends[int(number)]


def _is_node(name: object) -> bool:
    return isinstance(name, str) and name[:2] not in _NO_NODE


def targets(sends: object) -> Sequence[str]:
    """Returns the nodes that `Send`s start, by number, '' for anything else."""
    if not isinstance(sends, (list, tuple)):
        return ()
    nodes = (getattr(send, "node", "") for send in sends)
    return tuple(node if isinstance(node, str) else "" for node in nodes)
