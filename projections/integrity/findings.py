"""What verifying a thread found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, Literal

__all__ = ["Finding", "Findings", "Kind", "Verified", "folded", "text_of"]

Kind = Literal[
    "altered",
    "missing",
    "reordered",
    "inserted",
    "truncated",
    "rolled back",
    "repeated",
    "changed",
    "removed",
    "other life",
    "pointer",
]


@dataclass(frozen=True, slots=True)
class Finding:
    """A difference between a log and the log that this package wrote."""

    kind: str
    """A `Kind`; with keys also unsigned or forged.

    With kept digests it is changed, or removed if the entry was removed by order and can no longer be compared.
    """
    entry_id: str
    """The entry concerned; for missing entries, the entry after them."""
    sequence: int
    message: str
    """The finding in words."""


@dataclass(frozen=True, slots=True)
class Verified:
    """The result of verifying a thread."""

    thread_id: str
    entries: int
    sequence: int
    """Number of the last entry."""
    entry_id: str
    digest: str
    """The chain's digest at the last entry. Kept elsewhere, it proves later that the history up to there is unchanged."""
    removed: int
    """Number of entries that are gone by order: pruned, or deleted with their runs."""
    signed: int
    """Number of signatures that were checked and are right."""
    findings: tuple[Finding, ...]
    unchecked: int = 0
    """Number of signatures that were not checked, because there was no key."""
    unmarked: int = 0
    """Number of signatures in `signed` without the mark of a life, since an older version began the thread.

    Entries of an earlier life of the thread are not found among these.
    """

    @property
    def sound(self) -> bool:
        """Whether there are no findings."""
        return not self.findings

    @property
    def of_log(self) -> tuple[Finding, ...]:
        """The findings without those about pointers of the feed, which are not signed: signed events count more."""
        return tuple(one for one in self.findings if one.kind != "pointer")

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        findings = list(plain.pop("findings"))
        return {"thread_id": plain.pop("thread_id"), "sound": self.sound, **plain, "findings": findings}


class Findings(list[Finding]):
    """Collects findings."""

    def find(self, kind: Kind, entry_id: bytes, sequence: int, problem: str) -> None:
        """Adds a finding about an entry; `problem` continues the sentence "Entry ..."."""
        shown = text_of(entry_id)
        self.append(Finding(kind, shown, sequence, f"Entry {shown} {problem}"))

    @property
    def truncated(self) -> bool:
        """Whether the end of the log was found to be missing."""
        return any(one.kind == "truncated" for one in self)


def folded(findings: Iterable[Finding]) -> Iterator[Finding]:
    """Findings for people: of equal ones in a row only the first, whose message has their number and the last entry.

    Findings are equal if they differ only in the entry concerned.
    """

    def problem(one: Finding) -> tuple[str, str]:
        return one.kind, one.message.removeprefix(f"Entry {one.entry_id}")

    for _, run in groupby(findings, problem):
        first, *rest = run
        more = f"; {len(rest) + 1} such entries, the last is {rest[-1].entry_id}" if rest else ""
        yield replace(first, message=first.message + more)


def text_of(data: bytes) -> str:
    """An entry id or digest for people, whatever bytes it has."""
    return data.decode(errors="replace")
