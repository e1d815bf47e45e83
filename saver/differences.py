"""What changed between two states, channel by channel, item by item. Pure; works on deserialized values.

Dicts are compared key by key, lists item by item: by id where items have one (messages, or dicts with an "id"), else as sequences.
What is equal is never mentioned, and what changed inside a list or dict is told there rather than by both of them whole.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

__all__ = ["Change", "applied", "differences", "same"]

What = Literal["added", "removed", "changed", "inserted", "appended", "deleted"]

MOST_ITEMS = 2000
"""Items between the equal ends of two lists up to which they are compared as sequences; beyond, by those that both have once."""
DEEPEST = 50
"""Levels down to which values are looked into; what lies deeper is old and new."""


@dataclass(frozen=True, slots=True)
class Change:
    """One difference. Changes of a list are in an order in which they can be carried out one by one: see `applied`."""

    path: tuple[Any, ...]
    """Channel, then keys of dicts and places in lists, the latter as they are once the changes before this one were carried out."""
    what: What
    """Of a channel or key: added, removed, changed. Of an item of a list: appended, inserted, deleted, changed."""
    before: Any = None
    """What was there; None where nothing was."""
    after: Any = None
    """What is there now; None where nothing is."""
    id: str | None = None
    """Of an item of a list, where it has one."""

    @property
    def channel(self) -> str:
        """The channel it is in."""
        return str(self.path[0])


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """What leads from the values of one state to those of another, by channel: those removed and changed in the order of `before`,
    then those added.
    """
    return list(_of_dicts((), before, after, 0))


def applied(before: Mapping[str, Any], changes: Sequence[Change]) -> dict[str, Any]:
    """The values that changes make of others, which are left as they are."""
    return {**_carried_out(dict(before), [(change.path, change) for change in changes])}


def _carried_out(value: Any, changes: Sequence[tuple[tuple[Any, ...], Change]]) -> Any:
    position = 0
    while position < len(changes):
        path, change = changes[position]
        if len(path) > 1:
            some = [(path[1:], change)]
            while position + len(some) < len(changes) and changes[position + len(some)][0][:1] == path[:1]:
                following, later = changes[position + len(some)]
                if len(following) == 1:
                    break
                some.append((following[1:], later))
            inner = value[path[0]]
            value[path[0]] = _carried_out(dict(inner) if isinstance(inner, dict) else list(inner), some)
            position += len(some)
            continue
        if change.what in {"removed", "deleted"}:
            del value[path[0]]
        elif change.what in {"inserted", "appended"}:
            value.insert(path[0], change.after)
        else:
            value[path[0]] = change.after
        position += 1
    return value


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, 1, 1.0 and True being different, and NaN equal to itself. What cannot be compared differs."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        keys = {key: key for key in other}
        return len(one) == len(other) and all(
            key in keys and same(key, keys[key]) and same(value, other[key]) for key, value in one.items()
        )
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and one != one and other != other:  # noqa: PLR0124 - NaN
        return True
    if isinstance(one, float) and one == other == 0:
        return str(one) == str(other)
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 - arrays, and whatever else values may be
        return repr(one) == repr(other)


def _of(path: tuple[Any, ...], before: Any, after: Any, depth: int, id: str | None = None) -> Iterator[Change]:
    """The differences of what lies at a path in both."""
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
    """Equal ends are left alone; between them items are known by their ids, or by what they are."""
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
    """Stretches of two lists that are equal, to be replaced, deleted or inserted, in turn.

    An item with an id that both have is to be replaced by the other where it was edited.
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
    """Places of items that are in both lists once, in the order they have in both: as many as there are."""
    olds, news = Counter(old), Counter(new)
    places = {name: place for place, name in enumerate(new) if news[name] == 1}
    ends: list[int] = []  # of the longest rising run of each length, the place in `new` that it ends with
    at_end: list[Any] = []
    for place, name in enumerate(old):
        if olds[name] != 1 or name not in places:
            continue
        length = bisect_left(ends, places[name])
        link = (place, places[name], at_end[length - 1] if length else None)
        if length == len(ends):
            ends.append(places[name])
            at_end.append(link)
        else:
            ends[length], at_end[length] = places[name], link
    found: list[tuple[int, int]] = []
    last = at_end[-1] if at_end else None
    while last is not None:
        found.append((last[0], last[1]))
        last = last[2]
    return found[::-1]


def _around(anchors: list[tuple[int, int]], old: int, new: int) -> Iterator[tuple[str, int, int, int, int]]:
    """The anchors and what lies between them."""
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
    """What an item is known by: its id, or a text that equal items share."""
    found = id_of(item)
    return ("id", found) if found is not None else ("is", _canonical(item, 0))


def id_of(item: Any) -> str | None:
    """The id of an item of a list: of a message, or of a dict that has one. None for none."""
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
