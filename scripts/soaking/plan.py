"""How much is written by how many, and how often something is killed: what all processes of scripts/soak agree on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from typing_extensions import Self

__all__ = ["RECORD", "SINK", "Plan"]

RECORD = "record"
"""The group whose handlers note each handling, the same event's twice if it is handled twice."""
SINK = "sink"
"""The group whose handlers have an effect once, in a database of their own."""


@dataclass(frozen=True)
class Plan:
    """Sizes and times."""

    events: int = 200_000
    threads: int = 50
    writers: int = 4
    members: int = 3
    """Of each group."""
    seconds_between_kills: float = 3.0
    lease: float = 3.0
    seconds: float = 10.0
    """Writing is spread over at least this time, so that few events leave time to kill something."""
    seed: int = 7
    prefix: str = "soak"
    """What every key begins with."""

    @property
    def names(self) -> list[str]:
        """Of the threads."""
        return [f"agent-{number:03}" for number in range(self.threads)]

    def of_writer(self, writer: int) -> dict[str, int]:
        """A writer's threads, which nobody else writes to, and how many events each gets."""
        each, more = divmod(self.events, self.threads)
        return {
            name: each + (number < more) for number, name in enumerate(self.names) if number % self.writers == writer
        }

    def made(self) -> dict[str, int]:
        """How many events each thread gets."""
        return {thread: count for writer in range(self.writers) for thread, count in self.of_writer(writer).items()}

    def dump(self) -> str:
        """As another process is told of it."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """What `dump` gave."""
        return cls(**json.loads(text))
