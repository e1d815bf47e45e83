"""The chain of a log, entry by entry: each break is reported at its entry, and removals account for gaps. Without a server."""

from __future__ import annotations

from typing import Any

import pytest

from eventlog.chain import link
from eventlog.codec import content_digest
from eventlog.errors import CorruptEntry
from eventlog.events import CheckpointSaved, Event, HistoryPruned, Removed, RunsDeleted, ThreadCopied, encode_event
from projections.integrity.chain import WRONG_COPY, Chain, Link, WholeChain

Break = tuple[str, str, int]


def id_of(number: int) -> bytes:
    return b"%d-0" % (1000 + number)


def links(count: int) -> dict[int, Link]:
    """Entries that are chained, by their numbers."""
    found: dict[int, Link] = {}
    digest = b""
    for number in range(1, count + 1):
        digest = link(digest, id_of(number), number, "content")
        found[number] = Link(id_of(number), number, digest, "content")
    return found


LOG = links(12)


class Reports:
    """A chain, and the breaks that it reports."""

    def __init__(self, *numbers: int) -> None:
        self.breaks: list[Break] = []
        self.problems: list[str] = []
        self.chain = Chain(self._report)
        self.follow(*numbers)

    def _report(self, kind: str, entry_id: bytes, sequence: int, problem: str) -> None:
        self.breaks.append((kind, entry_id.decode(), sequence))
        self.problems.append(problem)

    def follow(self, *numbers: int) -> list[bool]:
        """Takes the next entries; whether each is chained to its predecessor."""
        return [self.chain.follow(LOG[number]) for number in numbers]

    def remove(self, *ranges: tuple[int, int], digest: str = "") -> list[tuple[int, int]]:
        """A removal of ranges, by the last entry; those that are in the log."""
        gone = tuple((first, last, digest or LOG[last].digest.decode()) for first, last in ranges)
        return self.chain.account(HistoryPruned("keep_latest", Removed((), (), gone)))

    def copy(self, sequence: int, digest: bytes) -> list[tuple[int, int]]:
        """The end of a copy, by the last entry."""
        return self.chain.account(ThreadCopied("source", sequence, digest.decode(), None, None))

    def finished(self) -> list[Break]:
        """All breaks."""
        self.chain.finish()
        return self.breaks


def test_a_chain_that_holds() -> None:
    """It knows both ends, and every entry follows."""
    one = Reports()
    assert (one.chain.first, one.chain.last, one.chain.sequence, one.chain.digest) == (b"", b"0-0", 0, b"")
    assert one.follow(1, 2, 3) == [True] * 3
    assert one.finished() == []
    chain = one.chain
    assert (chain.first, chain.last, chain.sequence, chain.digest) == (id_of(1), id_of(3), 3, LOG[3].digest)
    assert (chain.entries, chain.removed, chain.gaps) == (3, 0, [])
    assert chain.account(CheckpointSaved("", "c", None, {}, {}, {})) == []


@pytest.mark.parametrize("change", [{"digest": b"x"}, {"content": "x"}, {"entry_id": b"1003-1"}])
def test_an_entry_that_was_altered(change: dict[str, Any]) -> None:
    """It is reported, and so is the entry after it if the digest is another."""
    one = Reports(1, 2)
    assert not one.chain.follow(LOG[3]._replace(**change))
    following = one.follow(4)
    assert following == ["digest" not in change]
    assert [kind for kind, *_ in one.finished()] == ["altered"] * (1 if following == [True] else 2)
    assert one.breaks[0][2] == 3


@pytest.mark.parametrize(
    ("numbers", "breaks", "text"),
    [
        ((1, 3), [("missing", "1003-0", 3)], "number 2 is missing"),
        ((1, 5), [("missing", "1005-0", 5)], "numbers 2 to 4 are missing"),
        ((2, 3), [("missing", "1002-0", 2)], "number 1 is missing"),
        ((1, 3, 5), [("missing", "1003-0", 3), ("missing", "1005-0", 5)], "number 2 is"),
        ((1, 3, 2), [("reordered", "1002-0", 2)], "belongs before entry 1003-0"),
        ((1, 4, 2), [("reordered", "1002-0", 2), ("missing", "1004-0", 4)], "belongs before entry 1004-0"),
        ((1, 4, 3), [("reordered", "1003-0", 3), ("missing", "1004-0", 4)], "belongs before entry 1004-0"),
        ((1, 3, 5, 4), [("reordered", "1004-0", 4), ("missing", "1003-0", 3)], "belongs before entry 1005-0"),
        ((1, 3, 2, 2), [("reordered", "1002-0", 2), ("inserted", "1002-0", 2)], "belongs before"),
        ((1, 2, 2), [("inserted", "1002-0", 2)], "has number 2, which another entry has"),
        ((1, 2, 1), [("inserted", "1001-0", 1)], "has number 1, which another entry has"),
    ],
)
def test_gaps_and_entries_out_of_order(numbers: tuple[int, ...], breaks: list[Break], text: str) -> None:
    """Missing numbers are reported at the entry after them, unless that number comes late."""
    one = Reports(*numbers)
    assert one.chain.sequence == max(numbers)
    assert one.finished() == breaks
    assert text in one.problems[0]


def test_a_removal_accounts_for_a_gap() -> None:
    """Also several removals of parts; the entry after the gap is chained to the last one that was removed."""
    one = Reports(1, 6, 7)
    assert one.chain.entries == 3
    assert one.remove((2, 3)) == []
    assert (one.chain.removed, one.chain.gaps[0].closed) == (0, False)
    one.follow(8)
    assert one.remove((4, 5)) == []
    assert (one.chain.removed, one.chain.gaps[0].closed) == (4, True)
    assert one.finished() == []
    one.follow(9)
    assert one.remove((2, 5)) == []
    assert one.chain.removed == 4
    one.follow(3)
    assert one.breaks == [("inserted", "1003-0", 3)]


@pytest.mark.parametrize("ranges", [[(3, 5)], [(2, 4)], [(2, 2), (4, 5)], [(2, 3), (5, 5)], [(4, 5)]])
def test_a_removal_of_a_part(ranges: list[tuple[int, int]]) -> None:
    """A gap of which a number is not accounted for stays missing."""
    one = Reports(1, 6)
    assert one.remove(*ranges) == []
    assert one.finished() == [("missing", "1006-0", 6)]


def test_a_removal_of_entries_in_the_log() -> None:
    """The ranges are returned that the log has, wholly or in part."""
    one = Reports(2, 4, 5, 8, 9)
    present = [(1, 2), (2, 2), (3, 4), (4, 5), (7, 8), (9, 9)]
    assert one.remove(*present, (1, 1), (3, 3), (6, 7), (6, 6), (7, 7)) == present
    deleted = RunsDeleted(("run",), Removed((), (), ((4, 4, "digest"), (6, 7, LOG[7].digest.decode()))))
    assert one.chain.account(deleted) == [(4, 4)]
    assert one.finished() == []
    assert one.chain.removed == 4


def test_a_removal_with_another_digest() -> None:
    """The entry after the gap does not follow it."""
    one = Reports(1, 4)
    one.remove((2, 3), digest="another")
    assert one.finished() == [("altered", "1004-0", 4)]


def test_the_end_of_a_copy() -> None:
    """It names the entry before it; otherwise it closes another copy."""
    one = Reports(1, 2, 3)
    assert one.copy(2, LOG[2].digest) == []
    assert one.finished() == []
    for sequence, digest in ((2, LOG[1].digest), (1, LOG[2].digest), (3, LOG[3].digest)):
        one = Reports(1, 2, 3)
        one.copy(sequence, digest)
        assert one.finished() == [("altered", "1003-0", 3)]
        assert one.problems == [WRONG_COPY]
    first = Reports(1)
    first.copy(0, b"")
    assert first.finished() == []


@pytest.mark.parametrize(("named", "right"), [(4, True), (3, False)])
def test_the_end_of_a_copy_after_a_gap(named: int, right: bool) -> None:
    """It is compared with the removal that accounts for the gap."""
    one = Reports(1, 5)
    one.copy(named, LOG[named].digest)
    assert one.breaks == []
    one.follow(6)
    one.remove((2, 4))
    assert one.finished() == ([] if right else [("altered", "1005-0", 5)])


@pytest.mark.parametrize(
    ("entry_id", "flat", "problem"),
    [
        (b"1-0", [b"d", b"digest", b"n", b"1", b"k", b"writes"], "does not begin"),
        (b"1-0", [b"n", b"1"], "does not begin"),
        (b"1-0", [b"n", b"01", b"d", b"digest"], "number that this package does not give"),
        (b"1-0", [b"n", b"0", b"d", b"digest"], "number that this package does not give"),
        (b"1-0", [b"n", b"x", b"d", b"digest"], "invalid literal"),
        (b"1-1", [b"n", b"1", b"d", b"digest"], "id"),
    ],
)
def test_entries_that_this_package_did_not_write(entry_id: bytes, flat: list[bytes], problem: str) -> None:
    """They have no place in a chain."""
    with pytest.raises(ValueError, match=problem):
        Link.of(entry_id, flat)


def test_the_link_of_an_entry() -> None:
    """The content is all but number and digest."""
    fields = [b"k", b"writes", b"v", b"1"]
    content = content_digest(fields)
    assert Link.of(b"1-0", [b"n", b"1", b"d", b"digest", *fields]) == Link(b"1-0", 1, b"digest", content)


def entry_of(event: Event, number: int, previous: bytes) -> tuple[bytes, list[bytes]]:
    """An entry of the log."""
    fields = encode_event(event)
    digest = link(previous, id_of(number), number, content_digest(fields))
    return id_of(number), [b"n", b"%d" % number, b"d", digest, *fields]


def test_a_whole_chain() -> None:
    """It counts checkpoints, notes the first removal that is contradicted, and refuses it in the end, and the first break at once."""
    whole = WholeChain("t")
    body: dict[str, Any] = {"checkpoint": {}, "metadata": {}}
    for number in (1, 2):
        event = CheckpointSaved("", f"c{number}", None, {}, body, {})
        assert whole.add(*entry_of(event, number, whole.digest)).event == event
    assert (whole.checkpoints, whole.contradicted_at) == (2, 0)
    for number in (3, 4):
        removed = Removed((), (), ((1, 1, "digest"),))
        whole.add(*entry_of(HistoryPruned("keep_latest", removed), number, whole.digest))
    assert (whole.checkpoints, whole.contradicted_at, whole.sequence) == (2, 3, 4)
    with pytest.raises(CorruptEntry, match="event 3, which removed entries, and some of these are in the log"):
        whole.finish()
    late, _ = entry_of(HistoryPruned("x", Removed((), (), ())), 4, b"")
    _, fifth = entry_of(HistoryPruned("x", Removed((), (), ())), 5, whole.digest)
    for entry_id, problem in ((late, "comes after entry 1004-0"), (b"1005-0", "")):
        with pytest.raises(CorruptEntry, match=rf"Entry {entry_id.decode()} of thread 't' .*{problem}"):
            whole.add(entry_id, [*fifth[:3], b"x", *fifth[4:]])
