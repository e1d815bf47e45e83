"""The plan that all processes of scripts/soak share: sizes and times."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from typing_extensions import Self

__all__ = ["RECORD", "SINK", "Plan"]

RECORD = "record"
"""The group whose members note each handling. An event that is handled twice is noted twice."""
SINK = "sink"
"""The group whose members apply each event once, in a database that they share."""


@dataclass(frozen=True)
class Plan:
    """Sizes and times."""

    events: int = 200_000
    threads: int = 50
    writers: int = 4
    members: int = 3
    """Members of each group."""
    seconds_between_kills: float = 3.0
    lease: float = 3.0
    seconds: float = 10.0
    """Writing takes at least this long, so that there is time for kills when there are few events."""
    seed: int = 7
    prefix: str = "soak"
    """The prefix of every key."""

    @property
    def names(self) -> list[str]:
        """The names of the threads."""
        return [f"agent-{number:03}" for number in range(self.threads)]

    def of_writer(self, writer: int) -> dict[str, int]:
        """Return the threads that only this writer writes to, and their numbers of events."""
        each, more = divmod(self.events, self.threads)
        return {
            name: each + (number < more) for number, name in enumerate(self.names) if number % self.writers == writer
        }

    def made(self) -> dict[str, int]:
        """Return the number of events of each thread."""
        return {thread: count for writer in range(self.writers) for thread, count in self.of_writer(writer).items()}

    def dump(self) -> str:
        """Return the plan as text for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Self:
        """Return the plan of a text from `dump`."""
        return cls(**json.loads(text))
