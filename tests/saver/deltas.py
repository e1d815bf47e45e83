"""Histories of values that share much with those before them, and whether all of it reads back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from saver import RedisStreamSaver
from tests.saver.audit import Audit
from tests.saver.drivers import Call
from tests.saver.threads import config, step, values_of


def text(number: int, name: str = "") -> str:
    """A message like no other."""
    return f"{name} {number}: {sha256(f'{name} {number}'.encode()).hexdigest()}"


def talk(count: int, name: str = "", first: int = 0) -> list[Any]:
    """So many messages, each like no other."""
    return [text(number, name) for number in range(first, first + count)]


def edits(count: int) -> list[list[Any]]:
    """What agents make of a list, one version after the other: it grows, slides, is edited, summarized, and not changed at all."""
    state, states = talk(6, "start"), []
    for number in range(count):
        if number % 9 == 4:
            state = [*state[:2], text(number, "edit"), *state[3:]]
        elif number % 9 == 6:
            state = [*state[2:], text(number, "slide")]
        elif number % 31 == 30:
            state = [text(number, "summary"), *state[-2:]]
        elif number % 9 != 8:
            state = [*state, text(number, "more"), number]
        states.append(state)
    return states


NODES = [f"node number {number} of a graph" for number in range(20)]


@dataclass
class Story:
    """What a namespace of a thread was given, checkpoint by checkpoint: values that grow, and versions that take some space."""

    call: Call
    saver: RedisStreamSaver
    thread: str = "t"
    namespace: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    """Values by checkpoint id, in the order they were put."""
    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`versions_seen` by checkpoint id."""

    def config(self, checkpoint_id: str | None = None) -> Any:
        return config(self.thread, self.namespace, checkpoint_id)

    @property
    def latest(self) -> str:
        return max(self.told)

    async def put(
        self,
        changed: dict[str, Any],
        parent: str | None = None,
        *,
        empty: Sequence[str] = (),
        by: Any = None,
        **meta: Any,
    ) -> str:
        """Put a checkpoint of which some channels changed and others became empty, by default after the latest; its id."""
        parent = parent or (self.latest if self.told else None)
        checkpoint, metadata, new = step({**changed, **dict.fromkeys(empty)}, **meta)
        before = self.told.get(parent or "", {})
        values = {name: value for name, value in {**before, **changed}.items() if name not in empty}
        checkpoint["channel_values"] = values
        versions = self.versions.get(parent or "", {})
        checkpoint["channel_versions"] = {**versions, **new}
        seen = self.seen.get(parent or "", {node: {} for node in NODES})
        checkpoint["versions_seen"] = {**seen, NODES[len(self.told) % len(NODES)]: dict(versions)}
        await self.call(by or self.saver, "put", self.config(parent), checkpoint, metadata, new)
        return self.note(checkpoint)

    def note(self, checkpoint: Any) -> str:
        """Expect to find a checkpoint; its id."""
        checkpoint_id: str = checkpoint["id"]
        self.told[checkpoint_id] = checkpoint["channel_values"]
        self.versions[checkpoint_id] = checkpoint["channel_versions"]
        self.seen[checkpoint_id] = checkpoint["versions_seen"]
        return checkpoint_id

    def copied(self, thread: str) -> Story:
        """What a copy of the thread holds."""
        return replace(self, thread=thread, told=dict(self.told), versions=dict(self.versions), seen=dict(self.seen))

    async def put_all(self, states: Iterable[Any], channel: str = "n", **meta: Any) -> list[str]:
        """Put a checkpoint for each value of a channel, one after the other; their ids."""
        return [await self.put({channel: state}, **meta) for state in states]

    def forget(self, *ids: str) -> None:
        """Expect no longer to find some checkpoints."""
        for one in ids:
            del self.told[one]

    async def check_latest(self, saver: Any = None) -> None:
        """Check what the latest checkpoint holds."""
        self._check_one(self.latest, await self.call(saver or self.saver, "get_tuple", self.config()))

    def _check_one(self, checkpoint_id: str, found: Any) -> None:
        assert found is not None, checkpoint_id
        checkpoint = found.checkpoint
        assert (checkpoint["id"], values_of(found)) == (checkpoint_id, self.told[checkpoint_id])
        assert list(checkpoint["channel_versions"].items()) == list(self.versions[checkpoint_id].items())
        assert list(checkpoint["versions_seen"].items()) == list(self.seen[checkpoint_id].items())

    async def check(self, audit: Audit | None = None, saver: Any = None) -> None:
        """Check every way to read the thread; with an audit also its log, and all reads again without views."""
        for _ in ("with views", "without"):
            await self.check_latest(saver)
            await self._check_reads(saver or self.saver)
            if audit is None:
                return
            audit.check(self.thread)
            audit.forget_views(self.thread, self.namespace)

    async def _check_reads(self, saver: Any) -> None:
        newest_first = sorted(self.told, reverse=True)
        for checkpoint_id in newest_first:
            self._check_one(checkpoint_id, await self.call(saver, "get_tuple", self.config(checkpoint_id)))
        middle = newest_first[len(newest_first) // 2]
        earlier = [one for one in newest_first if one < middle]
        selections: list[tuple[dict[str, Any], list[str]]] = [
            ({}, newest_first),
            ({"limit": 2}, newest_first[:2]),
            ({"before": self.config(middle)}, earlier),
            ({"before": self.config(middle), "limit": 3, "filter": {"source": "loop"}}, earlier[:3]),
            ({"filter": {"source": "loop"}}, newest_first),
        ]
        for options, expected in selections:
            listed = await self.call(saver, "list", self.config(), **options)
            assert [one.checkpoint["id"] for one in listed] == expected
            for checkpoint_id, found in zip(expected, listed, strict=True):
                self._check_one(checkpoint_id, found)
