"""Which nodes ran, as the feed tells: found from what a saver has put and read before.

A checkpoint does not name the nodes that made it, only which versions of channels every node has seen so far; and of a task that a
`Send` started its path has a number only. What they mean shows beside the checkpoint before. What is not known is left out, since
no call is made for it: a pointer may name fewer nodes than ran.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["NOTHING", "SENDS", "Known", "KnownCheckpoints", "nodes_of", "targets", "writer_of"]

MOST = 1024
"""Checkpoints that are known at once."""
SENDS = "__pregel_tasks"
"""The channel of what `Send`s are to start next."""
_PULL, _PUSH = "~__pregel_pull, ", "~__pregel_push, "
"""What the path of a task begins with, before the node's name; before the number of its `Send`."""
_OF_SEND = ("", "0000000000")
"""What follows that number: not the task of a function, which is called with a number, too."""
_HANDLER = ", node_error_handler, 0000000000"
"""What the path of a task ends with that handles the error of the node before it."""
_RAN_NOTHING = ("input", "update", "fork")
"""Sources of checkpoints that no node ran for. They mark tasks that were dropped as seen."""
_NO_NODE = ("", "__")
"""What the names of nodes do not begin with: LangGraph's own do."""

_Name = tuple[str, str, str]
"""Thread, namespace, checkpoint id."""


class Known(NamedTuple):
    """What is known of a checkpoint."""

    seen: Mapping[str, Any]
    """By node, the versions of channels that it has seen."""
    step: int | None
    sends: Sequence[str]
    """By number, the nodes that `Send`s start next, '' for what is none."""
    audit: Mapping[str, Any] | None = None
    """What it was put or read under: LangGraph saves some tasks' writes outside the context that the graph runs in."""

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]) -> Known:
        """What a checkpoint says, whose `versions_seen` stays as it is from now on."""
        seen, step = checkpoint.get("versions_seen"), metadata.get("step")
        sends = checkpoint["channel_values"].get(SENDS)
        return cls(
            seen if isinstance(seen, dict) else {},
            step if type(step) is int else None,
            () if sends is None else targets(sends),
        )


NOTHING = Known({}, None, ())
"""What is known of the parent that a first checkpoint does not have."""


class KnownCheckpoints:
    """The checkpoints that a saver put or read last. Usable from many threads at once, each step being one of the dictionary's."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Name, Known] = OrderedDict()

    def get(self, name: _Name) -> Known | None:
        """What is known of a checkpoint."""
        try:
            self._known.move_to_end(name)
            return self._known[name]
        except KeyError:
            return None

    def note(self, name: _Name, known: Known) -> None:
        """Notes a checkpoint that is put or was read."""
        self._known[name] = known
        if len(self._known) > MOST:
            self._known.popitem(last=False)


def nodes_of(known: Known, source: object, before: Known | None) -> list[str]:
    """The nodes that ran to make a checkpoint, in the order they ran first, then those that `Send`s started.

    `before`: what is known of its parent.
    """
    if before is None or source in _RAN_NOTHING:
        return []
    earlier = before.seen
    ran = [node for node, versions in known.seen.items() if earlier.get(node) != versions and _is_node(node)]
    return list(dict.fromkeys([*ran, *filter(_is_node, before.sends)])) if before.sends else ran


def writer_of(task_path: str, known: Known | None) -> list[str]:
    """The node whose task wrote to a checkpoint, by the path of the task (LangGraph's `task_path_str`)."""
    node = ""
    if task_path.startswith(_PULL):
        node = "" if task_path.endswith(_HANDLER) else task_path[len(_PULL) :]
    elif known is not None and task_path.startswith(_PUSH):
        node = _sent(task_path[len(_PUSH) :], known.sends)
    return [node] if node[:2] not in _NO_NODE else []


def _sent(path: str, sends: Sequence[str]) -> str:
    """The node that a `Send` started, by the rest of its task's path."""
    number, _, rest = path.partition(", ")
    if not number.isdecimal() or rest not in _OF_SEND or int(number) >= len(sends):
        return ""
    return sends[int(number)]


def _is_node(name: object) -> bool:
    return isinstance(name, str) and name[:2] not in _NO_NODE


def targets(sends: object) -> Sequence[str]:
    """The nodes that `Send`s start, by number, '' for what is none."""
    if not isinstance(sends, (list, tuple)):
        return ()
    nodes = (getattr(send, "node", "") for send in sends)
    return tuple(node if isinstance(node, str) else "" for node in nodes)
