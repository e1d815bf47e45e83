"""Finds the changes between two states, channel by channel and item by item.

Pure; works on deserialized values. Dicts are compared key by key. Lists are compared item by item: by id if items
have one (messages, or dicts with an "id"), otherwise as sequences. A change inside a list or dict is reported
there, and not as two whole values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

__all__ = ["Change", "differences", "same"]

What = Literal["added", "removed", "changed", "inserted", "appended", "deleted"]

MOST_ITEMS = 2000
"""The most items for which lists are compared as sequences. Longer ones are compared by the items that both have once."""
DEEPEST = 50
"""The deepest level at which values are compared part by part. Deeper values change as a whole."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change.

    The changes of a list come in an order in which they can be carried out one by one.
    """

    path: tuple[Any, ...]
    """The channel, then keys of dicts and indexes of lists. Indexes count after the changes before this one."""
    what: What
    """For a channel or key: added, removed, changed. For an item of a list: appended, inserted, deleted, changed."""
    before: Any = None
    """The old value; None if there was none."""
    after: Any = None
    """The new value; None if there is none."""
    id: str | None = None
    """The id of an item of a list, if it has one."""

    @property
    def channel(self) -> str:
        """The channel of the change."""
        return str(self.path[0])


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """Returns the changes from the values of one state to those of another.

    Channels that were removed or changed come first, in the order of `before`, then those that were added.
    """
    return list(_of_dicts((), before, after, 0))


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal.

    1, 1.0 and True differ, and NaN equals itself. Values that cannot be compared differ, also since they are nested too deep.
    """
    try:
        return _same(one, other)
    except RecursionError:
        return False


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        keys = {key: key for key in other}
        return len(one) == len(other) and all(
            key in keys and _same(key, keys[key]) and _same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and one != one and other != other:  # noqa: PLR0124 - NaN
        return True
    if isinstance(one, float) and one == other == 0:
        return str(one) == str(other)
    try:
        return bool(one == other)
    except RecursionError:
        raise
    except Exception:  # noqa: BLE001 - arrays, and other values that do not compare
        return repr(one) == repr(other)


def _of(path: tuple[Any, ...], before: Any, after: Any, depth: int, id: str | None = None) -> Iterator[Change]:
    """Yields the changes between the values at a path."""
    if same(before, after):
        return
    if depth < DEEPEST and type(before) is dict and type(after) is dict:
        yield from _of_dicts(path, before, after, depth)
        return
    if depth < DEEPEST and type(before) is list and type(after) is list:
        yield from _of_lists(path, before, after, depth)
        return
    yield Change(path, "changed", before, after, id)


def _of_dicts(
    path: tuple[Any, ...], before: Mapping[Any, Any], after: Mapping[Any, Any], depth: int
) -> Iterator[Change]:
    own = {key: key for key in after}
    for key, value in before.items():
        if key not in after or not same(key, own[key]):
            yield Change((*path, key), "removed", before=value)
        else:
            yield from _of((*path, key), value, after[key], depth + 1)
    known = {key: key for key in before}
    for key, value in after.items():
        if key not in before or not same(key, known[key]):
            yield Change((*path, key), "added", after=value)


def _of_lists(path: tuple[Any, ...], before: list[Any], after: list[Any], depth: int) -> Iterator[Change]:
    """Yields the changes between two lists.

    Equal items at both ends are skipped. Items between them are matched by their ids, or by their contents.
    """
    start = 0
    while start < min(len(before), len(after)) and same(before[start], after[start]):
        start += 1
    end, until = len(before), len(after)
    while end > start and until > start and same(before[end - 1], after[until - 1]):
        end, until = end - 1, until - 1
    shift = 0
    for tag, i1, i2, j1, j2 in _runs(before[start:end], after[start:until]):
        if tag == "equal":
            continue
        old, new = before[start + i1 : start + i2], after[start + j1 : start + j2]
        at = start + i1 + shift
        if tag == "replace":
            paired = min(len(old), len(new))
            for offset in range(paired):
                yield from _of((*path, at + offset), old[offset], new[offset], depth + 1, id_of(new[offset]))
            old, new, at = old[paired:], new[paired:], at + paired
        for item in old:
            yield Change((*path, at), "deleted", before=item, id=id_of(item))
        length = len(before) + shift - len(old)
        for offset, item in enumerate(new):
            what: What = "appended" if at + offset == length + offset else "inserted"
            yield Change((*path, at + offset), what, after=item, id=id_of(item))
        shift += len(new) - len(old)


def _runs(old: list[Any], new: list[Any]) -> list[tuple[str, int, int, int, int]]:
    """Returns runs of two lists in turn: equal, replace, delete or insert.

    An edited item with an id that both lists have is replaced.
    """
    if not old or not new:
        return [("replace", 0, len(old), 0, len(new))]
    olds, news = [_name(item) for item in old], [_name(item) for item in new]
    if max(len(old), len(new)) > MOST_ITEMS:
        found = _around(_anchors(olds, news), len(old), len(new))
    else:
        found = iter(SequenceMatcher(None, olds, news, autojunk=False).get_opcodes())
    runs: list[tuple[str, int, int, int, int]] = []
    for tag, i1, i2, j1, j2 in found:
        if tag == "equal":  # the same ids, perhaps edited
            runs += [
                ("equal" if same(old[i1 + n], new[j1 + n]) else "replace", i1 + n, i1 + n + 1, j1 + n, j1 + n + 1)
                for n in range(i2 - i1)
            ]
        elif tag == "replace" and _named_apart(old[i1:i2], new[j1:j2]):
            runs += [("delete", i1, i2, j1, j1), ("insert", i2, i2, j1, j2)]
        else:
            runs.append((tag, i1, i2, j1, j2))
    return runs


def _anchors(old: list[Hashable], new: list[Hashable]) -> list[tuple[int, int]]:
    """Returns the indexes of items that both lists have once, in the same order.

    They are the longest such sequence.
    """
    olds, news = Counter(old), Counter(new)
    indexes = {name: index for index, name in enumerate(new) if news[name] == 1}
    ends: list[int] = []  # the smallest index in `new` at the end of a rising sequence of each length
    at_end: list[Any] = []
    for index, name in enumerate(old):
        if olds[name] != 1 or name not in indexes:
            continue
        length = bisect_left(ends, indexes[name])
        link = (index, indexes[name], at_end[length - 1] if length else None)
        if length == len(ends):
            ends.append(indexes[name])
            at_end.append(link)
        else:
            ends[length], at_end[length] = indexes[name], link
    found: list[tuple[int, int]] = []
    last = at_end[-1] if at_end else None
    while last is not None:
        found.append((last[0], last[1]))
        last = last[2]
    return found[::-1]


def _around(anchors: list[tuple[int, int]], old: int, new: int) -> Iterator[tuple[str, int, int, int, int]]:
    """Yields the anchors and the runs between them."""
    i = j = 0
    for at, to in [*anchors, (old, new)]:
        if at > i or to > j:
            yield ("replace" if at > i and to > j else "delete" if at > i else "insert"), i, at, j, to
        if at < old:
            yield "equal", at, at + 1, to, to + 1
        i, j = at + 1, to + 1


def _named_apart(old: list[Any], new: list[Any]) -> bool:
    """Whether items have ids, so that one cannot have become another."""
    return any(id_of(item) is not None for item in (*old, *new))


def _name(item: Any) -> Hashable:
    """Returns the id of an item, or a text that equal items share."""
    found = id_of(item)
    return ("id", found) if found is not None else ("is", _canonical(item, 0))


def id_of(item: Any) -> str | None:
    """Returns the id of a message, or of a dict that has one.

    None if there is none.
    """
    found = item.get("id") if isinstance(item, dict) else getattr(item, "id", None)
    return found if isinstance(found, str) and found else None


def _canonical(value: Any, depth: int) -> str:
    kind = type(value)
    if depth > DEEPEST:
        return kind.__name__
    if kind is dict:
        return "{" + ",".join(f"{_canonical(k, depth + 1)}:{_canonical(v, depth + 1)}" for k, v in value.items()) + "}"
    if kind is list or kind is tuple:
        return f"{kind.__name__}[" + ",".join(_canonical(one, depth + 1) for one in value) + "]"
    return f"{kind.__name__}:{value!r}"
