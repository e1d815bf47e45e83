"""Verifying a log: real traffic is sound, and each way of tampering is found, with the entry named."""

from __future__ import annotations

import contextlib
import threading
import time
import tracemalloc
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog.chain import link
from eventlog.codec import content_digest
from eventlog.errors import CorruptEntry, HistoryGone, InvalidArgument, SignatureInvalid, ThreadNotFound
from eventlog.flow import Request
from eventlog.signing import Signer, SigningKey
from projections.integrity.chain import WholeChain
from projections.integrity.feed_evidence import announced
from projections.integrity.findings import Verified
from projections.integrity.verify import Verification
from saver import RedisStreamSaver
from tests.projections.conftest import Open
from tests.projections.steps import Steps, is_call
from tests.projections.tampering import (
    Entry,
    Tamper,
    Tampering,
    bent,
    chained,
    later,
    own_digest,
    removal,
    with_field,
)
from tests.projections.traffic import THREADS, Operation, Player, traffic
from tests.saver.audit import Audit, config, put_of
from tests.saver.threads import following, step
from tests.servers import Server

pytestmark = pytest.mark.telling

SECRET = b"a secret of sixteen bytes or more"
SIGNED = [{}, {"signing_key": SECRET}]
relaxed = settings(
    deadline=None,
    max_examples=6,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    print_blob=True,
)


def kinds(found: Verified) -> list[str]:
    return [one.kind for one in found.findings]


def fill(saver: RedisStreamSaver, thread: str = "t", count: int = 5, first: int = 1) -> None:
    """Checkpoints, each with writes: twice as many entries."""
    for number in range(first, first + count):
        saver.put(*put_of(thread, number, number - 1 if number > 1 else None, shared=True))
        saver.put_writes(config(thread, number), [("n", f"write {number}")], f"task {number}")


# sound


@given(operations=traffic, options=st.sampled_from([*SIGNED, {"compress_above": 64}]))
@relaxed
def test_any_traffic_is_sound(any_server: Server, operations: list[Operation], options: dict[str, Any]) -> None:
    """Whatever two savers do to some threads, prunings, deletions, copies and copies of copies: every log verifies."""
    prefix = "t" + uuid.uuid4().hex[:8]
    savers = [
        RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=2, **options) for _ in range(2)
    ]
    player = Player(*savers)
    try:
        for operation in operations:
            player.play(operation)
        for thread in (*THREADS, "copy", "copy of a copy"):
            with contextlib.suppress(ThreadNotFound):
                found = savers[0].verify(thread)
                assert found.sound, found.findings
                assert found.entries + found.removed == found.sequence
                assert found.signed == (found.entries if "signing_key" in options else 0)
                follow_up(savers[1], thread, found)
    finally:
        for thread in THREADS:
            for one in (thread, "copy", "copy of a copy", "part"):
                savers[0].delete_thread(one)
        for saver in savers:
            saver.close()


def follow_up(saver: RedisStreamSaver, thread: str, found: Verified) -> None:
    """Copies a thread, prunes the copy, copies that, and copies its beginning: all is sound, and so is what follows."""
    if thread == "copy" or not list(saver.list(config(thread), limit=1)):
        return
    for source, target in ((thread, "copy"), ("copy", "copy of a copy")):
        saver.delete_thread(target)
        saver.copy_thread(source, target)
        saver.prune([target])
        saver.put(*put_of(target, 99))
        assert saver.verify(target).sound, saver.verify(target).findings
    saver.delete_thread("part")
    with contextlib.suppress(HistoryGone, InvalidArgument):
        saver.copy_thread(thread, "part", until=max(1, found.sequence // 2))
        saver.put(*put_of("part", 98))
        assert saver.verify("part").sound, saver.verify("part").findings


@pytest.mark.parametrize("options", SIGNED, ids=["unsigned", "signed"])
def test_wide_events_and_early_writes_are_sound(on: Open, options: dict[str, Any]) -> None:
    """Values and writes that are spread over several entries, and writes before their checkpoint."""
    saver = on(**options)
    checkpoint, metadata, versions = step({f"channel {number}": number for number in range(2500)})
    early = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": checkpoint["id"]}}
    saver.put_writes(early, [(f"w{number}", number) for number in range(2100)], "task")  # type: ignore[arg-type]
    saver.put(config("t"), checkpoint, metadata, versions)
    found = saver.verify("t")
    assert (found.sound, found.entries, found.signed) == (True, 6, 6 if options else 0)


@pytest.mark.parametrize("options", SIGNED, ids=["unsigned", "signed"])
def test_two_savers_at_once_are_sound(on: Open, options: dict[str, Any]) -> None:
    """Writers that do not see each other's events, and prune meanwhile; verified again and again while they write."""
    savers = [on(**options) for _ in range(2)]
    fill(savers[0], count=2)
    results = []

    def write(number: int) -> None:
        for at in range(40):
            savers[number].put(*put_of("t", 100 * at + number + 10, shared=True))
            if at % 10 == 9:
                savers[number].prune(["t"], keep_last=3)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for one in threads:
        one.start()
    while any(one.is_alive() for one in threads):
        results.append(savers[0].verify("t"))
    for one in threads:
        one.join()
    results.append(savers[1].verify("t"))
    assert all(one.sound for one in results), [one.findings for one in results]
    assert results[-1].sequence > 4 + 80


@pytest.mark.parametrize("options", SIGNED, ids=["unsigned", "signed"])
def test_a_thread_that_begins_anew_is_sound(on: Open, options: dict[str, Any]) -> None:
    """After it was deleted, also for a saver that had seen the log before; and after it was expired."""
    saver, other = on(**options), on(**options)
    fill(saver)
    fill(other, first=6, count=1)
    saver.delete_thread("t")
    fill(other, count=1)
    fill(saver, first=2, count=1)
    assert saver.verify("t").sound
    short = on(ttl=0.002, **options)
    fill(short, "expiring", 2)
    time.sleep(0.3)
    lasting = on(ttl=60, **options)  # a slow machine could lose a short one before it is verified
    fill(lasting, "expiring", 1)
    assert lasting.verify("expiring").sound


def test_removals_that_stay_are_followed(on: Open) -> None:
    """Events of deleted runs stay, and a later pruning adds to what they account for."""
    saver = on()
    for number in range(1, 9):
        saver.put(*put_of("t", number, number - 1 or None, run=f"run {number % 3}"))
    saver.delete_for_runs(["run 1"])
    assert saver.verify("t").sound
    saver.prune(["t"], keep_last=2)
    saver.delete_for_runs(["run 2"])
    found = saver.verify("t")
    assert (found.sound, found.entries + found.removed) == (True, found.sequence)
    assert found.removed > 4


# a thread that is gone


def test_a_deleted_thread_has_a_tombstone_with_its_digest(on: Open, audit: Audit) -> None:
    """With the last number and digest, which are those that verifying had reported; so does the error that verifying raises."""
    saver = on()
    fill(saver)
    found = saver.verify("t")
    saver.delete_thread("t")
    (_, tombstone) = audit.client.xrevrange(audit.keyspace.partition(0).feed, count=1)[0]
    assert (tombstone[b"seq"], tombstone[b"digest"]) == (b"%d" % found.sequence, found.digest.encode())
    with pytest.raises(ThreadNotFound, match=f"was deleted, with number 10 and digest {found.digest}"):
        saver.verify("t")


def test_a_thread_that_there_never_was(on: Open, audit: Audit) -> None:
    """Is not found; nor is one that expired, or one of writes that were dropped."""
    saver = on(ttl=0.002)
    fill(saver, count=1)
    time.sleep(0.3)
    for thread in ("t", "never"):
        with pytest.raises(ThreadNotFound):
            saver.verify(thread)
    lasting = on()
    lasting.put_writes(config("early", 1), [("n", 1)], "task")
    keys = audit.keyspace.thread(b"early")
    audit.client.delete(keys.log, keys.index, keys.order)
    with pytest.raises(ThreadNotFound):
        lasting.verify("early")


def test_what_was_added_at_the_end_is_told_once(on: Open, audit: Audit) -> None:
    """As inserted, and not as an end that was cut off; what was cut off is reported once, too."""
    saver = on()
    fill(saver)
    log = audit.keyspace.thread(b"t").log
    added = audit.client.xadd(log, {b"what": b"is this"}, id=following(audit.client.xrevrange(log, count=1)[0][0]))
    (finding,) = saver.verify("t").findings
    assert (finding.kind, finding.entry_id) == ("inserted", added.decode())
    audit.client.xdel(log, added, audit.client.xrange(log)[-2][0])
    (finding,) = saver.verify("t").findings
    assert (finding.kind, finding.sequence) == ("truncated", 9)


@pytest.mark.parametrize(
    "wrong",
    [{"seq": "x"}, {"seq": ""}, {"id": b"\xff"}, {"thread": b"\xff"}, {"kind": None}, {"thread": None}],
    ids=["number", "no number", "id", "thread", "no kind", "no thread"],
)
def test_what_is_no_pointer_is_named(on: Open, audit: Audit, wrong: dict[str, Any]) -> None:
    """Where something else was put into the feed, verifying threads says which entry it is, and what to do."""
    saver = on()
    fill(saver)
    feed = audit.keyspace.partition(0).feed
    pointer = {"thread": "t", "id": "1-0", "seq": "1", "kind": "writes", **wrong}
    fields = {name: value for name, value in pointer.items() if value is not None}
    added = audit.client.xadd(feed, fields, id=following(audit.client.xrevrange(feed, count=1)[0][0]))
    with pytest.raises(CorruptEntry, match=rf"{added.decode()} of the feed of partition 0 .* remove it with XDEL"):
        saver._runner.run(announced(audit.keyspace), "the feed")
    audit.client.xdel(feed, added)
    assert saver.verify("t").sound


FORGED = [
    ("greater number, last", 2, "99", False),
    ("lower number, last", 2, "1", False),
    ("greater number, then more", 2, "99", True),
    ("greater number of the last entry", -1, "99", False),
    ("number 0", 1, "0", False),
    ("less than 0", 1, "-5", False),
]


@pytest.mark.parametrize(("entry", "number", "more"), [one[1:] for one in FORGED], ids=[one[0] for one in FORGED])
def test_a_forged_pointer_is_no_cut_end(on: Open, audit: Audit, entry: int, number: str, more: bool) -> None:
    """A pointer with a false number is a finding of its own, with the command that removes it."""
    saver = on()
    fill(saver)
    feed = audit.keyspace.partition(0).feed
    _, true = audit.client.xrange(feed)[entry]
    added = audit.client.xadd(feed, {**true, b"seq": number}).decode()
    if more:
        saver.put(*put_of("t", 90, None))
    (finding,) = saver.verify("t").findings
    assert (finding.kind, finding.entry_id) == ("pointer", true[b"id"].decode())
    assert f"the feed's pointer {added} does not agree with the log" in finding.message
    assert f"XDEL {feed.decode()} {added}" in finding.message
    audit.client.xdel(feed, added)
    assert saver.verify("t").sound


def test_a_forged_pointer_hides_no_cut_end(on: Open, audit: Audit) -> None:
    """The end that is missing is still found."""
    saver = on()
    fill(saver)
    feed = audit.keyspace.partition(0).feed
    _, true = audit.client.xrange(feed)[2]
    audit.client.xadd(feed, {**true, b"seq": "99"})
    log = audit.keyspace.thread(b"t").log
    audit.client.xdel(log, audit.client.xrevrange(log, count=1)[0][0])
    assert set(kinds(saver.verify("t"))) == {"pointer", "truncated"}


def test_a_forged_tombstone(on: Open, audit: Audit) -> None:
    """A tombstone with another digest than the log has does not make the log one that was deleted."""
    saver = on()
    fill(saver)
    feed = audit.keyspace.partition(0).feed
    fields = {"thread": "t", "id": "", "seq": "3", "kind": "deleted", "run": "", "digest": "0" * 40}
    audit.client.xadd(feed, fields)
    (finding,) = saver.verify("t").findings
    assert (finding.kind, "does not agree with the log" in finding.message) == ("pointer", True)


@pytest.mark.parametrize("wrong", [{"foo": "bar"}, {"thread": "other", "foo": "x"}, {"thread": "other", "seq": "x"}])
def test_what_is_no_pointer_concerns_no_thread(on: Open, audit: Audit, wrong: dict[str, Any]) -> None:
    """A thread is verified all the same."""
    saver = on()
    fill(saver)
    audit.client.xadd(audit.keyspace.partition(0).feed, wrong)
    assert saver.verify("t").sound


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [b"x", b"writes", b"k", b"pruned"],
        [b"k", b"writes", b"k", b"pruned", b"v", b"1", b"e", b"\xa0"],
        [b"k", b"pruned", b"v", b"1", b"e", b"\xff"],
    ],
    ids=["nothing", "elsewhere", "two kinds", "no CBOR"],
)
def test_odd_fields_that_are_chained_are_told(fields: list[bytes]) -> None:
    """What removes or copies, or may, is looked into, and what that is not, is reported as altered."""
    entries = log_of(2)
    entry_id = b"2000000-0"
    digest = link(entries[-1][1][3], entry_id, 3, content_digest(fields))
    verification = Verification("t")
    for entry in [*entries, (entry_id, [b"n", b"3", b"d", digest, *fields])]:
        verification.add(*entry)
    assert [one.kind for one in verification.findings] == ["altered"]
    assert "2000000-0" in verification.findings[0].message


def test_a_log_that_was_deleted_by_hand_is_told_of(on: Open, audit: Audit) -> None:
    """Alone, and with all that the thread had beside it."""
    saver = on()
    fill(saver)
    keys = audit.keyspace.thread(b"t")
    audit.client.delete(keys.log)
    assert kinds(saver.verify("t")) == ["truncated"]
    audit.client.delete(keys.index, keys.order, keys.head(b""))
    audit.client.zrem(keys.shared.threads, b"tt")
    (finding,) = saver.verify("t").findings
    assert (finding.kind, finding.entry_id) == ("truncated", "0-0")
    assert "the feed announced number 10" in finding.message


def test_a_deleted_log_that_is_back_is_told_of(on: Open, audit: Audit) -> None:
    """The feed has its tombstone."""
    saver = on()
    fill(saver)
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    entries = tampering.entries()
    saver.delete_thread("t")
    tampering.write(entries)
    (finding,) = saver.verify("t").findings
    assert (finding.kind, finding.entry_id) == ("inserted", entries[0][0].decode())


@pytest.mark.parametrize("how", ["pruned", "run deleted"])
@pytest.mark.parametrize("options", SIGNED, ids=["no key", "key"])
@pytest.mark.parametrize("count", [1, 4])
def test_removed_events_that_are_back_are_found(
    on: Open, audit: Audit, tmp_path: Path, how: str, options: dict[str, Any], count: int
) -> None:
    """All of them or one: the removal names them. The log is not exported any more."""
    saver = on(**options)
    for number in range(1, 6):
        saver.put(*put_of("t", number, number - 1 or None, run="a" if number < 4 else "b"))
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    before = tampering.entries()
    if how == "pruned":
        saver.prune(["t"], keep_last=1)
    else:
        saver.delete_for_runs(["a"])
    after = tampering.entries()
    ids = {entry_id for entry_id, _ in after}
    gone = [entry for entry in before if entry[0] not in ids]
    assert len(gone) >= 3
    tampering.write(sorted([*gone[-count:], *after]))
    audit.forget_views("t")
    assert "inserted" in kinds(on(**options).verify("t"))
    with pytest.raises((CorruptEntry, SignatureInvalid)):
        on(**options).export_threads(tmp_path / "e", ["t"])


@pytest.mark.parametrize("ttl", [None, 60], ids=["lasting", "expiring"])
def test_a_damaged_log_is_read_once_while_only_its_time_to_live_changes(
    on: Open, audit: Audit, ttl: float | None
) -> None:
    """The time to live that is left is no change of the log, so verifying does not begin again."""
    saver = on(ttl=ttl)
    fill(saver)
    keys = audit.keyspace.thread(b"t")
    audit.client.xdel(keys.log, audit.client.xrange(keys.log)[4][0])
    steps = Steps(saver)

    def shorten(_: Request) -> None:
        left = audit.client.pttl(keys.log)
        if left > 0:
            audit.client.pexpire(keys.log, left - 1000)

    found = steps.run(saver._operations.verify("t", None), shorten)
    assert kinds(found) == ["missing"]
    assert len(steps.calls("read_entries")) == 1
    assert (audit.client.pttl(keys.log) > 0) == (ttl is not None)


def test_a_log_that_is_deleted_once_its_feed_was_read(on: Open) -> None:
    """Is gone, rather than cut off; and one that begins again then is sound."""
    saver, other = on(), on()
    fill(saver)
    steps = Steps(saver)
    again = False

    def meanwhile(request: Request) -> None:
        if is_call(request, "log_state") and not steps.calls("log_state"):
            other.delete_thread("t")
            if again:
                fill(other, count=2)

    with pytest.raises(ThreadNotFound, match="was deleted"):
        steps.run(saver._operations.verify("t", None), meanwhile)
    fill(saver)
    again = True
    found = steps.run(saver._operations.verify("t", None), meanwhile)
    assert (found.sound, found.entries) == (True, 4), found.findings


# tampering


def replaced(change: Callable[[Entry], Entry], at: int = 4) -> Tamper:
    return lambda _, entries: [*entries[:at], change(entries[at]), *entries[at + 1 :]]


def and_its_digest(_: Tampering, entries: list[Entry]) -> list[Entry]:
    return [*entries[:4], own_digest(bent(entries[4]), entries[3][1][3]), *entries[5:]]


def swapped(_: Tampering, entries: list[Entry]) -> list[Entry]:
    (one, first), (other, second) = entries[4:6]
    return [*entries[:4], (one, second), (other, first), *entries[6:]]


def swapped_and_chained(self: Tampering, entries: list[Entry]) -> list[Entry]:
    return chained(swapped(self, entries))


def inserted(made: Callable[[list[Entry]], list[bytes]]) -> Tamper:
    """An entry between two: numbered as the one before it."""

    def tamper(_: Tampering, entries: list[Entry]) -> list[Entry]:
        between = b"%d-0" % (int(entries[4][0].partition(b"-")[0]) + 1)
        moved = [(later([entry], 5), flat) for entry, flat in ((one, one[1]) for one in entries[5:])]
        return [*entries[:5], (between, made(entries)), *moved]

    return tamper


def appended(made: Callable[[list[Entry]], list[bytes]]) -> Tamper:
    """An entry behind the last, with the next number, and digest and all."""

    def tamper(_: Tampering, entries: list[Entry]) -> list[Entry]:
        return chained([*entries, (later(entries), [b"n", b"0", b"d", b"", *made(entries)[4:]])])

    return tamper


def of_another_thread(tampering: Tampering, entries: list[Entry]) -> list[Entry]:
    other = tampering.client.xrange(tampering.keys.log[:-1] + b"u")[-1][1]
    flat = [part for item in other.items() for part in item]
    return chained([*entries, (later(entries), flat)])


def renumbered(_: Tampering, entries: list[Entry]) -> list[Entry]:
    return [*entries[:4], *(with_field(one, b"n", b"%d" % (int(one[1][1]) + 1)) for one in entries[4:])]


def with_a_forged_removal(_: Tampering, entries: list[Entry]) -> list[Entry]:
    left = [*entries[:3], *entries[5:]]
    return [*left, removal(left, entries[3:5])]


def with_a_removal_of_what_is_there(_: Tampering, entries: list[Entry]) -> list[Entry]:
    return [*entries, removal(entries, entries[3:5])]


def with_other_ids(_: Tampering, entries: list[Entry]) -> list[Entry]:
    return chained([(later([one]), one[1]) for one in entries])


MADE_UP = [b"k", b"writes", b"v", b"1", b"e", b"\xa2bns`bid`", b"t", b"task", b"a", b"path"]

TABLE: list[tuple[str, Tamper, set[str], set[str], bool]] = [
    # what was done, what is found without a key and with one, and whether the index is mended
    ("a byte", replaced(bent), {"altered"}, {"altered", "forged"}, False),
    ("the kind", replaced(lambda one: with_field(one, b"k", b"values")), {"altered"}, {"altered", "forged"}, False),
    ("a field that is no CBOR", replaced(lambda one: with_field(one, b"e", b"\xff")), {"altered"}, {"altered", "forged"}, False),
    ("a byte and its digest", and_its_digest, {"altered"}, {"altered", "forged", "rolled back"}, False),
    ("one taken out", lambda _, e: [*e[:4], *e[5:]], {"missing"}, {"missing", "rolled back"}, True),
    ("the first", lambda _, e: e[1:], {"missing"}, {"missing", "rolled back"}, True),
    ("the first three", lambda _, e: e[3:], {"missing"}, {"missing", "rolled back"}, True),
    ("the end", lambda _, e: e[:-2], {"truncated"}, {"truncated"}, False),
    ("the end, index mended", lambda _, e: e[:-2], {"truncated"}, {"truncated"}, True),
    ("two swapped", swapped, {"reordered"}, {"reordered", "rolled back"}, False),
    ("two swapped, chained again", swapped_and_chained, set(), {"rolled back"}, True),
    ("a made-up entry between", inserted(lambda e: [*e[4][1][:4], *MADE_UP]), {"inserted", "altered"}, {"inserted", "altered", "unsigned", "rolled back"}, True),
    ("a copy between", inserted(lambda e: e[3][1]), {"inserted", "altered"}, {"inserted", "altered", "repeated", "rolled back"}, True),
    ("a foreign entry", inserted(lambda _: [b"hello", b"world"]), {"inserted", "altered"}, {"inserted", "altered", "rolled back"}, False),
    ("a made-up entry at the end", appended(lambda _: [b"", b"", b"", b"", *MADE_UP]), set(), {"unsigned"}, True),
    ("a copy at the end", appended(lambda e: e[3][1]), set(), {"repeated"}, True),
    ("one of another thread", of_another_thread, set(), {"forged"}, True),
    ("other numbers", renumbered, {"missing", "altered"}, {"missing", "altered"}, True),
    ("a gap with a forged removal", with_a_forged_removal, set(), {"unsigned"}, True),
    ("a removal of what is there", with_a_removal_of_what_is_there, {"inserted"}, {"inserted", "unsigned"}, True),
    ("all chained again", lambda t, e: chained(replaced(bent)(t, e)), {"altered"}, {"altered", "forged", "rolled back"}, False),
    ("all chained again, index mended", lambda t, e: chained(replaced(bent)(t, e)), set(), {"forged", "rolled back"}, True),
    ("one less, all chained again", lambda _, e: chained([*e[:4], *e[5:]]), {"pointer"}, {"truncated", "rolled back"}, True),
    ("other ids, chained again", with_other_ids, {"pointer"}, {"altered", "rolled back"}, True),
]  # fmt: skip


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("tamper", "unsigned", "with_key", "mend"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])  # fmt: skip
def test_tampering_is_found(
    on: Open, audit: Audit, tamper: Tamper, unsigned: set[str], with_key: set[str], *, mend: bool, signed: bool
) -> None:
    """What is found names an entry. Where the log alone does not tell, a digest that was kept does, but for a removal: without a
    key one that was made up is as good as any other.
    """
    saver = on(**SIGNED[signed])
    fill(saver)
    fill(saver, "u")
    before = saver.verify("t")
    assert before.sound
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    entries = tampering.entries()
    tampering.write(tamper(tampering, entries), last=max(later(entries, 100), b""), mend=mend)
    tampering.client.execute_command("XSETID", tampering.keys.log, tampering.entries()[-1][0])
    found = saver.verify("t")
    assert set(kinds(found)) == (with_key if signed else unsigned), found.findings
    there = {entry_id.decode() for entry_id, _ in tampering.entries()}
    assert all(one.entry_id in there and one.entry_id in one.message for one in found.findings)
    kept = {before.sequence: before.digest}
    if tamper is not with_a_forged_removal and tampering.entries()[: len(entries)] != entries:
        assert not saver.verify("t", expected=kept).sound


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("same_writer", [False, True])
def test_a_log_that_was_cut_and_went_on(on: Open, audit: Audit, *, signed: bool, same_writer: bool) -> None:
    """The feed announced its numbers twice; with a key, a writer that had seen the end tells as well."""
    saver = on(**SIGNED[signed])
    fill(saver)
    before = saver.verify("t")
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    entries = tampering.entries()
    tampering.write(entries[:-2])
    audit.client.delete(tampering.keys.order, tampering.keys.head(b""))
    time.sleep(0.1)  # ids may be ahead of the clock, and would be given again
    writer = saver if same_writer else on(**SIGNED[signed])
    fill(writer, first=20, count=3)
    found = saver.verify("t")
    assert set(kinds(found)) == {"rolled back"}
    assert entries[-1][0].decode() in {one.entry_id for one in found.findings}
    assert len(found.findings) == (2 if signed and same_writer else 1)
    assert "changed" in kinds(saver.verify("t", expected={before.sequence: before.digest}))


def test_a_cut_in_a_pruned_log_is_told_from_what_was_pruned(on: Open, audit: Audit) -> None:
    """With a key: what a writer had seen was neither there nor where entries were removed."""
    saver, other = on(signing_key=SECRET), on(signing_key=SECRET)
    fill(other)
    fill(saver, first=6, count=1)
    other.prune(["t"], keep_last=2)
    assert saver.verify("t").sound
    fill(saver, first=7, count=1)
    assert saver.verify("t").sound
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    entries = tampering.entries()
    tampering.write(entries[:-1])
    audit.client.delete(tampering.keys.order, tampering.keys.head(b""))
    audit.client.delete(audit.keyspace.partition(0).feed)
    saver.put(*put_of("t", 30))
    assert kinds(saver.verify("t")) == ["rolled back"]


def test_what_a_copy_may_hold(on: Open, audit: Audit) -> None:
    """Signed for the source before the copy was closed, for the copy after it: an event of the source is not taken behind it."""
    saver = on(signing_key=SECRET)
    fill(saver)
    saver.copy_thread("t", "v")
    saver.put(*put_of("v", 9, 5))
    saver.copy_thread("v", "w")
    fill(saver, first=6, count=1)
    assert all(saver.verify(one).sound for one in "tvw")
    (_, later_one) = Tampering(audit.client, audit.keyspace.thread(b"t")).entries()[-2]
    for copy in ("v", "w"):
        tampering = Tampering(audit.client, audit.keyspace.thread(copy.encode()))
        entries = tampering.entries()
        tampering.write(chained([*entries, (later(entries), later_one)]))
        assert set(kinds(saver.verify(copy))) == {"forged", "rolled back"} - {"rolled back"}


def test_digests_that_were_kept(on: Open) -> None:
    """Prove that nothing up to there has changed, also of a thread that went on; of what was pruned they say so."""
    saver = on()
    fill(saver)
    kept = saver.verify("t")
    fill(saver, first=6, count=2)
    assert saver.verify("t", expected={kept.sequence: kept.digest}).sound
    assert kinds(saver.verify("t", expected={3: "0" * 40})) == ["changed"]
    assert kinds(saver.verify("t", expected={99: "0" * 40})) == ["truncated"]
    saver.prune(["t"])
    assert kinds(saver.verify("t", expected={1: kept.digest})) == ["removed"]
    for wrong in ({0: "0" * 40}, {1: "abc"}):
        with pytest.raises(InvalidArgument):
            saver.verify("t", expected=wrong)
    with pytest.raises(TypeError):
        saver.verify("t", expected={"1": "0" * 40})  # type: ignore[dict-item]


def test_a_thread_that_is_pruned_while_it_is_verified(saver: RedisStreamSaver) -> None:
    """Is verified once more, and sound: the removal is behind where the log ended."""
    fill(saver, count=400)
    calls: list[int] = []
    done: list[int] = []

    def meanwhile(request: Any) -> None:
        calls.extend([1] if is_call(request, "read_entries") else [])
        if len(calls) == 2 and not done:
            done.append(1)
            saver.prune(["t"], keep_last=100)

    flow = saver._operations.verify("t", None)
    found = drive(saver, flow, meanwhile)
    assert found.sound, found.findings[:3]
    assert found.removed > 500


def drive(saver: RedisStreamSaver, flow: Any, before: Callable[[Any], None]) -> Any:
    """Runs a flow; something happens before each request."""

    def watched() -> Any:
        reply = None
        while True:
            try:
                request = flow.send(reply)
            except StopIteration as ended:
                return ended.value
            before(request)
            reply = yield request

    return saver._runner.run(watched(), "test")


async def test_in_both_drivers(on: Open) -> None:
    """The async twin finds the same."""
    saver = on()
    fill(saver)
    assert await saver.averify("t") == saver.verify("t")


# pure


def log_of(count: int, signer: Signer | None = None) -> list[Entry]:
    """Small events, chained."""
    entries: list[Entry] = []
    digest = b""
    for number in range(1, count + 1):
        fields = [*MADE_UP]
        if signer is not None:
            fields = signer.sign(b"t", fields)
        entry_id = b"%d-0" % (1_000_000 + number)
        digest = link(digest, entry_id, number, content_digest(fields))
        entries.append((entry_id, [b"n", b"%d" % number, b"d", digest, *fields]))
        if signer is not None:
            signer.note(b"t", entry_id, digest, signer.known(b"t").life)
    return entries


@pytest.mark.parametrize("tamper", [row[1] for row in TABLE if row[1] is not of_another_thread], ids=[row[0] for row in TABLE if row[1] is not of_another_thread])  # fmt: skip
def test_exports_refuse_the_breaks_that_verifying_finds(tamper: Tamper) -> None:
    """Exports, imports and copies refuse each log of which verifying reports a break of the chain."""
    entries = tamper(cast("Tampering", None), log_of(10))
    verification, whole = Verification("t"), WholeChain("t")
    refused = False
    for entry in entries:
        verification.add(*entry)
    verification.chain.finish()
    try:
        for entry in entries:
            whole.add(*entry)
        whole.finish()
    except CorruptEntry:
        refused = True
    assert refused == bool(verification.findings)
    assert (whole.contradicted_at > 0) == (tamper is with_a_removal_of_what_is_there)


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True])
def test_memory_is_flat(*, signed: bool) -> None:
    """Of a log of six times as many events no more is kept."""
    signer = Signer(SigningKey.hmac(SECRET)) if signed else None
    short, long = log_of(2_000, signer), log_of(12_000, signer)

    def peak(entries: Sequence[Entry]) -> int:
        verification = Verification("t", signer)
        tracemalloc.start()
        for entry_id, flat in entries:
            verification.add(entry_id, flat)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert not verification.findings
        return most

    peak(short)
    assert peak(long) < peak(short) + 100_000


def test_calls_that_arrive_in_another_order_are_no_repetition() -> None:
    """Numbers of a writer may be left out and come late; each counts once, and none from long ago."""
    from projections.integrity.seals import USED, _Writer

    writer = _Writer()
    assert [writer.uses(number) for number in (3, 1, 2, 10, 9, 3, 10)] == [True, True, True, True, True, False, False]
    assert all(writer.uses(number) for number in range(100, 100 + USED))
    assert not writer.uses(4)
