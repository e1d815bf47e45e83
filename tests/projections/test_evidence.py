"""Each witness of a log's end, alone: index, stream, feed and digests that were kept. Without a server."""

from __future__ import annotations

from typing import Any

import pytest

from eventlog.chain import link
from eventlog.codec import content_digest
from projections.integrity.chain import Chain, Link
from projections.integrity.evidence import Evidence
from projections.integrity.feed_evidence import Announced
from projections.integrity.findings import Finding, Findings, Verified
from projections.integrity.log_end import LogState


def id_of(number: int) -> bytes:
    return b"%d-0" % (1000 + number)


def links(count: int) -> list[Link]:
    """Entries that are chained."""
    found: list[Link] = []
    for number in range(1, count + 1):
        content = content_digest([b"k", b"%d" % number])
        digest = link(found[-1].digest if found else b"", id_of(number), number, content)
        found.append(Link(id_of(number), number, digest, content))
    return found


THREE = links(3)
DIGESTS = {one.sequence: one.digest.decode() for one in THREE}
SOUND = LogState(3, THREE[2].digest, id_of(3), id_of(3), 3, expires=False)
ANNOUNCED = Announced(3, "1003-0")
OTHER = "0" * 40


def judged(
    entries: list[Link],
    state: LogState = SOUND,
    feed: Announced | None = None,
    kept: dict[int, str] | None = None,
    *,
    last_read: bytes = b"",
    gone: dict[int, tuple[int, bytes]] | None = None,
) -> Findings:
    """The findings about a log with these entries."""
    findings = Findings()
    chain = Chain(findings.find)
    evidence = Evidence(chain, findings, state, feed, kept or {})
    for entry in entries:
        chain.follow(entry)
        evidence.compare()
    chain.gone.update(gone or {})
    evidence.finish(last_read or chain.last)
    return findings


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"feed": ANNOUNCED},
        {"kept": DIGESTS},
        {"state": SOUND._replace(index_sequence=0, index_digest=b"", stream_last=b"")},
        {"state": SOUND._replace(stream_last=b"1004-0"), "last_read": b"1004-0"},
        {"state": SOUND._replace(index_sequence=2, index_digest=THREE[1].digest)},
        {"feed": Announced(2, "1002-0")},
        {"feed": Announced(9, "", ended="expired")},
        {"feed": Announced(3, "", ended="expired")},
        {"feed": ANNOUNCED._replace(behind=(2, "1002-0"))},
        {"feed": ANNOUNCED._replace(behind=(7, "1000-5"))},
    ],
)
def test_witnesses_that_agree(known: dict[str, Any]) -> None:
    """There are no findings, also where a witness knows of less than the log has."""
    assert list(judged(THREE, **known)) == []


@pytest.mark.parametrize(
    ("known", "kind", "entry_id", "sequence", "text"),
    [
        ({"state": SOUND._replace(index_sequence=4)}, "truncated", "1003-0", 3, "the index knows of number 4"),
        ({"state": SOUND._replace(index_digest=b"x")}, "altered", "1003-0", 3, "another digest than the index"),
        (
            {"state": SOUND._replace(index_sequence=2, index_digest=b"x")},
            "altered", "1002-0", 2, "another digest than the index",
        ),
        ({"state": SOUND._replace(stream_last=b"1003-1")}, "truncated", "1003-0", 3, "stream has had entry 1003-1"),
        ({"feed": Announced(4, "1004-0")}, "truncated", "1003-0", 3, "the feed announced number 4, entry 1004-0"),
        ({"feed": Announced(2, "1002-1")}, "pointer", "1002-0", 2, "it announces entry 1002-1 with that number"),
        ({"feed": Announced(2, "1004-0")}, "altered", "1002-0", 2, "with which the feed announced entry 1004-0"),
        ({"feed": Announced(3, "", ended="deleted")}, "inserted", "1001-0", 3, "is in a deleted log"),
        ({"feed": ANNOUNCED._replace(behind=(3, "1002-5"))}, "rolled back", "1002-5", 3, "announced with number 3"),
        ({"feed": ANNOUNCED._replace(behind=(3, "1002-0"))}, "pointer", "1002-0", 2, "this entry with number 3"),
        ({"feed": ANNOUNCED._replace(behind=(2, "1001-0"))}, "pointer", "1001-0", 1, "this entry with number 2"),
        ({"feed": Announced(9, "1002-0")}, "pointer", "1002-0", 2, "this entry with number 9"),
        ({"feed": Announced(9, "1002-5")}, "pointer", "1003-0", 3, "it announces entry 1002-5 with number 9"),
        ({"feed": Announced(3, "", ended="deleted", digest=OTHER)}, "pointer", "1003-0", 3, "was deleted with number 3"),
        ({"kept": {2: OTHER}}, "changed", "1002-0", 2, "another digest at number 2"),
        ({"kept": {**DIGESTS, 4: OTHER}}, "truncated", "1003-0", 3, "a digest was kept of number 4"),
    ],
)  # fmt: skip
def test_a_witness_that_disagrees(known: dict[str, Any], kind: str, entry_id: str, sequence: int, text: str) -> None:
    """One witness is enough, and its finding names the entry."""
    (finding,) = judged(THREE, **known)
    assert (finding.kind, finding.entry_id, finding.sequence) == (kind, entry_id, sequence)
    assert text in finding.message


def test_an_end_that_several_witnesses_know() -> None:
    """The feed does not repeat that the end is missing."""
    state = SOUND._replace(index_sequence=4)
    assert [one.kind for one in judged(THREE, state, Announced(4, "1004-0"))] == ["truncated"]


@pytest.mark.parametrize(
    ("kept", "gone", "kind"),
    [
        (DIGESTS, {2: (2, THREE[1].digest)}, None),
        (DIGESTS, {2: (1, b"another")}, "changed"),
        (DIGESTS, {}, "removed"),
    ],
)
def test_a_digest_of_an_entry_that_was_removed(kept: Any, gone: Any, kind: str | None) -> None:
    """It is compared with the digest that the removal names, if it names one."""
    found = judged([THREE[0], THREE[2]], kept=kept, gone=gone)
    expected = [] if kind is None else [(kind, "1003-0", 2)]
    assert [(one.kind, one.entry_id, one.sequence) for one in found] == expected


def test_a_log_that_is_gone() -> None:
    """It has no entry to be named."""
    state = LogState(4, b"digest", b"", b"", 0, expires=False)
    (finding,) = judged([], state)
    assert (finding.kind, finding.entry_id, finding.sequence) == ("truncated", "0-0", 0)
    assert finding.message == "The log is gone, but the index knows of number 4"
    assert list(judged([], state._replace(index_sequence=0), ANNOUNCED._replace(behind=(4, "1-0"), sequence=0))) == []


def test_a_result_as_plain_data() -> None:
    """It begins with the thread, and ends with the findings."""
    finding = Finding("altered", "1-0", 1, "Entry 1-0 differs")
    plain = Verified("t", 2, 1, "1-0", "digest", 3, 4, (finding,)).as_dict()
    assert list(plain)[:2] == ["thread_id", "sound"]
    assert plain == {
        "thread_id": "t", "sound": False, "entries": 2, "sequence": 1, "entry_id": "1-0", "digest": "digest", "removed": 3,
        "signed": 4, "unchecked": 0, "unmarked": 0,
        "findings": [{"kind": "altered", "entry_id": "1-0", "sequence": 1, "message": "Entry 1-0 differs"}],
    }  # fmt: skip
