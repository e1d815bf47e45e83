"""Lives of a signed thread: events of another life, or of a source after its copy, are found and refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from eventlog import codec
from eventlog.chain import link
from eventlog.codec import content_digest
from eventlog.errors import CorruptEntry, EventGone, InvalidArgument, SignatureInvalid, ThreadBusy, ThreadNotFound
from eventlog.events import ThreadCopied, decode_entry, encode_event
from eventlog.flow import Request
from eventlog.keys import Keyspace
from eventlog.signing import Known, Signer, SigningKey, seal_of
from projections.integrity.findings import Verified
from projections.log.index import rebuild_index
from projections.transfer.copy import copy_thread
from projections.transfer.export import export_file
from projections.transfer.files import read_file
from projections.transfer.format import ThreadHead
from saver import RedisStreamSaver
from tests.projections.steps import Steps, is_call
from tests.projections.tampering import Entry, Tampering, chained, later, with_field
from tests.saver.audit import Audit, config, put_of
from tests.saver.drivers import call_now
from tests.servers import Server

KEYS = [SigningKey.hmac(b"a secret of sixteen bytes or more"), SigningKey.ed25519(bytes(range(32)))]
Open = Callable[..., RedisStreamSaver]


@pytest.fixture(params=KEYS, ids=["hmac", "ed25519"])
def key(request: pytest.FixtureRequest) -> SigningKey:
    """A key of each kind."""
    made: SigningKey = request.param
    return made


@contextmanager
def opening(server: Server, prefix: str, key: SigningKey) -> Iterator[Open]:
    """Opens savers that sign, and closes them."""
    opened: list[RedisStreamSaver] = []

    def on(**options: Any) -> RedisStreamSaver:
        given = {"prefix": prefix, "partitions": 1, "signing_key": key, **options}
        opened.append(RedisStreamSaver.from_conn_string(server.url, **given))
        return opened[-1]

    try:
        yield on
    finally:
        for saver in opened:
            saver.close()


@pytest.fixture
def on(any_server: Server, prefix: str, key: SigningKey) -> Iterator[Open]:
    """Opens savers that sign, on the quick server."""
    with opening(any_server, prefix, key) as opened:
        yield opened


@pytest.fixture
def audit(any_server: Server, prefix: str) -> Iterator[Audit]:
    """A look at the keys."""
    with Audit(any_server.url, prefix, 1) as looking:
        yield looking


def fill(saver: RedisStreamSaver, thread: str = "t", numbers: range = range(1, 9), run: str = "r") -> None:
    """Checkpoints, each with writes: twice as many entries."""
    for number in numbers:
        saver.put(*put_of(thread, number, number - 1 if number > 1 else None, run=run))
        saver.put_writes(config(thread, number), [("n", f"write {number}")], f"task {number}")


def kinds(found: Verified) -> set[str]:
    return {one.kind for one in found.findings}


READS: dict[str, Callable[[RedisStreamSaver], Any]] = {
    "latest": lambda saver: call_now(saver, "get_tuple", config("t")),
    "by id": lambda saver: call_now(saver, "get_tuple", config("t", 8)),
    "list": lambda saver: call_now(saver, "list", config("t")),
    "list of all": lambda saver: call_now(saver, "list", None),
    "delta history": lambda saver: call_now(saver, "get_delta_channel_history", config=config("t"), channels=["n"]),
    "as of": lambda saver: call_now(saver, "get_tuple_as_of", config("t"), 16),
    "replay": lambda saver: [one.state for one in saver.replay("t")],
    "prune": lambda saver: saver.prune(["t"], keep_last=2),
    "copy": lambda saver: saver.copy_thread("t", "copy"),
}


def two_lives(on: Open, tampering: Tampering) -> tuple[list[Entry], list[Entry]]:
    """The entries of a thread's earlier life, which ended with a prune, and of its present one."""
    saver = on()
    fill(saver)
    saver.prune(["t"], keep_last=1)
    earlier = tampering.entries()
    saver.delete_thread("t")
    fill(saver, numbers=range(1, 8))
    on().put(*put_of("t", 8, 7))
    on().put_writes(config("t", 8), [("n", "write 8")], "task 8")
    return earlier, tampering.entries()


def test_a_prune_of_an_earlier_life_is_found(on: Open, audit: Audit) -> None:
    """It would account for 14 of 16 events that somebody took out."""
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    earlier, present = two_lives(on, tampering)
    prune = earlier[-1]
    event: Any = decode_entry("t", *prune).event
    ((first, last, digest),) = event.removed.gone
    assert (first, last, len(present)) == (1, 14, 16)
    forged: list[Entry] = []
    previous = digest.encode()
    for number, (entry_id, flat) in enumerate([*present[14:], (later(present), prune[1])], 15):
        previous = link(previous, entry_id, number, content_digest(flat[4:]))
        forged.append((entry_id, [b"n", b"%d" % number, b"d", previous, *flat[4:]]))
    tampering.write(forged)
    audit.forget_views("t")
    found = on().verify("t")
    assert "other life" in kinds(found), found
    with pytest.raises(SignatureInvalid, match="another life"):
        on().get_tuple(config("t"))


PLACES: dict[str, Callable[[list[Entry], Entry], list[Entry]]] = {
    "at the end": lambda entries, one: [*entries, (later(entries), one[1])],
    "in the place of the last": lambda entries, one: [*entries[:-1], (entries[-1][0], one[1])],
    "in the middle": lambda entries, one: [*entries[:7], (entries[7][0], one[1]), *entries[8:]],
    "at the beginning": lambda entries, one: [(entries[0][0], one[1]), *entries[1:]],
}


@pytest.mark.parametrize("at", [0, 1], ids=["a checkpoint", "writes"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_an_event_of_an_earlier_life_is_found_and_refused(
    on: Open, audit: Audit, place: Callable[[list[Entry], Entry], list[Entry]], at: int
) -> None:
    """Wherever it is put: every read that needs it, or meets it, refuses, with the thread and the entry."""
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    earlier, present = two_lives(on, tampering)
    tampering.write(chained(place(present, earlier[at])))
    audit.forget_views("t")
    saver = on()
    assert "other life" in kinds(saver.verify("t"))
    for name, read in READS.items():
        needless = {"latest", "by id", "delta history", *([] if at else ["list", "list of all"])}
        if place is PLACES["in the middle"] and name in needless:
            continue  # a later checkpoint has the same id
        with pytest.raises(SignatureInvalid, match="Thread 't'"):
            read(saver)
            pytest.fail(name)


def test_an_event_of_a_later_life_is_refused_in_a_restored_one(on: Open, audit: Audit, tmp_path: Path) -> None:
    """An import restores the life that was exported, and a writer goes on in it."""
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    saver = on()
    fill(saver)
    first, _ = seal_of(tampering.entries()[0][1])
    saver.export_threads(tmp_path / "file", ["t"])
    saver.delete_thread("t")
    fill(saver)
    stolen = tampering.entries()[-2]
    saver.delete_thread("t")
    saver.import_threads(tmp_path / "file")
    saver.put(*put_of("t", 9, 8))
    entries = tampering.entries()
    last, _ = seal_of(entries[-1][1])
    assert first is not None
    assert last is not None
    assert first.life == last.life != b""
    assert on().verify("t").sound
    assert on().get_tuple(config("t")) is not None
    tampering.write(chained([*entries, (later(entries), stolen[1])]))
    assert kinds(on().verify("t")) >= {"other life"}


def test_a_removal_cannot_be_moved_within_its_life(on: Open, audit: Audit, tmp_path: Path) -> None:
    """A prune that a restore undid is found when somebody puts it in again, and so is one behind another entry."""
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    saver = on()
    fill(saver)
    saver.export_threads(tmp_path / "file", ["t"])
    saver.prune(["t"], keep_last=1)
    prune = tampering.entries()[-1]
    saver.delete_thread("t")
    saver.import_threads(tmp_path / "file")
    other = on()
    other.put(*put_of("t", 9, 8))
    entries = tampering.entries()
    event: Any = decode_entry("t", *prune).event
    ((_, last, digest),) = event.removed.gone
    forged, previous = [], digest.encode()
    for number, (entry_id, flat) in enumerate([*entries[last:], (later(entries), prune[1])], last + 1):
        previous = link(previous, entry_id, number, content_digest(flat[4:]))
        forged.append((entry_id, [b"n", b"%d" % number, b"d", previous, *flat[4:]]))
    tampering.write(forged)
    found = [one for one in on().verify("t").findings if one.message.endswith("was signed to come after another entry")]
    assert [(one.kind, one.sequence) for one in found] == [("inserted", int(forged[-1][1][1]))]


def test_prunes_after_prunes_are_bound_to_entries_that_are_gone(on: Open) -> None:
    """A prune removes the one before it, which the next had seen."""
    saver = on()
    fill(saver)
    for keep in (6, 4, 4, 2):
        saver.prune(["t"], keep_last=keep)
        assert saver.verify("t").sound, saver.verify("t").findings
    saver.delete_for_runs(["nobody"])
    fill(saver, numbers=range(9, 11), run="s")
    saver.delete_for_runs(["r"])
    found = saver.verify("t")
    assert (found.sound, found.unmarked) == (True, 0), found.findings
    assert on().get_tuple(config("t")) is not None


# copies


@pytest.mark.parametrize("hidden", [False, True], ids=["at the end", "in the place of a copied one"])
def test_what_a_source_wrote_after_the_copy_is_refused(on: Open, audit: Audit, *, hidden: bool) -> None:
    """By reads of the copy and of its copies, before the event that ends the copy as well as after it."""
    saver = on()
    fill(saver, "s")
    saver.copy_thread("s", "t")
    saver.copy_thread("t", "u")
    assert saver.verify("u").sound
    saver.put(*put_of("s", 8, 7, channels=("m",)))
    stolen = Tampering(audit.client, audit.keyspace.thread(b"s")).entries()[-1][1]
    for thread in ("t", "u"):
        tampering = Tampering(audit.client, audit.keyspace.thread(thread.encode()))
        entries = tampering.entries()
        ends = entries[16:]
        copied = [*entries[:14], (entries[14][0], stolen)] if hidden else [*entries[:15], (entries[15][0], stolen)]
        tampering.write(chained([*copied, *ends]))
        audit.forget_views(thread)
        found = [one for one in on().verify(thread).findings if "not among the entries that were copied" in one.message]
        assert [one.kind for one in found] == ["inserted"]
        for read in ("get_tuple", "list"):
            with pytest.raises(SignatureInvalid, match="not among the entries that were copied"):
                call_now(on(), read, config(thread))


def test_what_ends_a_copy_names_the_source_its_life_and_its_seals(on: Open, audit: Audit) -> None:
    """A copy begins a life of its own, and copies of copies and of beginnings are read and verified."""
    saver = on()
    fill(saver, "s")
    saver.copy_thread("s", "t")
    entries = Tampering(audit.client, audit.keyspace.thread(b"t")).entries()
    ends: Any = decode_entry("t", *entries[-1]).event
    assert isinstance(ends, ThreadCopied)
    seals = [seal_of(flat)[0] for _, flat in entries]
    assert all(seals)
    lives = [seal.life for seal in seals if seal]
    assert (ends.source, ends.sequence, bytes.fromhex(ends.life)) == ("s", 16, lives[0])
    assert (len(set(lives[:-1])), lives[-1] not in lives[:-1]) == (1, True)
    assert [seal and seal.digest for seal in seals][-1] == entries[-2][1][3]
    fill(saver, "t", range(9, 11))
    saver.copy_thread("t", "u")
    saver.copy_thread("u", "early", until=6)
    saver.delete_thread("s")
    saver.copy_thread("u", "s")  # of the first source's name again
    fill(saver, "s", range(11, 13))
    saver.prune(["s"], keep_last=2)
    for thread in ("t", "u", "early", "s"):
        assert on().verify(thread).sound, on().verify(thread).findings
        assert on().get_tuple(config(thread)) is not None
        assert len(list(on().list(config(thread)))) > 1


def test_an_altered_source_is_not_copied(on: Open, audit: Audit, any_server: Server, prefix: str) -> None:
    """A copy would list what was altered as its own; its beginning, before the alteration, can be copied."""
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    earlier, present = two_lives(on, tampering)
    tampering.write(chained([*present[:8], (present[8][0], earlier[0][1]), *present[9:]]))
    audit.forget_views("t")
    saver = on()
    with pytest.raises(SignatureInvalid, match="Nothing was copied"):
        saver.copy_thread("t", "copy")
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as plain:
        fill(plain, "plain")
    with pytest.raises(SignatureInvalid, match="Thread 'plain': Entry .* is not signed. Nothing was copied"):
        saver.copy_thread("plain", "copy")
    tampering.write(chained([*present[:8], with_field(present[8], b"g", b"nothing"), *present[9:]]))
    with pytest.raises(SignatureInvalid, match="Nothing was copied"):
        saver.copy_thread("t", "copy")
    saver.copy_thread("t", "copy", until=8)
    assert saver.verify("copy").sound


def test_a_copy_of_an_earlier_life_does_not_enter_a_later_one(on: Open, audit: Audit) -> None:
    """With the event that ended it: neither its own events nor the copied ones are read."""
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    saver = on()
    fill(saver, "s", range(1, 3))
    saver.copy_thread("s", "t")
    copied = tampering.entries()
    saver.delete_thread("t")
    fill(saver, numbers=range(3, 6))
    present = tampering.entries()
    moved = [(later(copied, at), flat) for at, (_, flat) in enumerate(present, 1)]
    tampering.write(chained([*copied, *moved]))
    audit.forget_views("t")
    assert "other life" in kinds(on().verify("t"))
    for number in (None, 1, 4):
        with pytest.raises(SignatureInvalid, match="another life"):
            on().get_tuple(config("t", number))


def test_threads_that_begin_again_meanwhile(on: Open, tmp_path: Path) -> None:
    """A copy and an export that verify a log, which then is another one, take that."""
    for what in ("copy", "export"):
        saver, other = on(), on()
        fill(saver)
        steps, keyspace = Steps(saver), saver._operations.keyspace

        def again(request: Request, other: RedisStreamSaver = other) -> None:
            if is_call(request, "log_state") and len(list(other.list(config("t")))) == 8:
                other.delete_thread("t")
                fill(other, numbers=range(1, 4))

        if what == "copy":
            steps.run(copy_thread(keyspace, keyspace.thread(b"t"), keyspace.thread(b"copy"), ttl=0), again)
            assert (saver.verify("copy").sound, saver.verify("copy").entries) == (True, 7)
        else:
            steps.run(export_file(keyspace, ["t"], tmp_path / "file", overwrite=False), again)
            assert [item.entries for item in read_file(tmp_path / "file") if isinstance(item, ThreadHead)] == [6]
        saver.delete_thread("t")


def test_logs_that_move_on_before_they_are_checked(on: Open) -> None:
    """A read that meets a prune or a new life in between reads again, rather than report damage."""
    saver, other = on(), on()
    fill(saver)
    steps = Steps(saver)
    done: list[str] = []

    def meddle(request: Request) -> None:
        if is_call(request, "read_named") and len(done) < 2:
            done.append("pruned" if not done else "deleted")
            if len(done) == 1:
                other.prune(["t"], keep_last=2)
                other.put(*put_of("t", 9, 8))
            else:
                other.delete_thread("t")
                fill(other, numbers=range(1, 4))

    reading = saver._operations.get_tuple(saver.serde, config("t", 3))
    found = steps.run(reading, meddle)
    assert found is None
    assert done == ["pruned"]
    found = steps.run(saver._operations.get_tuple(saver.serde, config("t")), meddle)
    assert found is not None
    assert found.metadata["step"] == 3
    saver.put(*put_of("t", 4, 3))
    assert saver.verify("t").sound


def prune(saver: RedisStreamSaver) -> None:
    """Removes most checkpoints."""
    saver.prune(["t"], keep_last=2)


def begin_again(saver: RedisStreamSaver) -> None:
    """Deletes the thread, and writes it again."""
    saver.delete_thread("t")
    fill(saver, numbers=range(1, 4))


LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)
RACING: dict[str, Callable[[Steps], Any]] = {
    "list": lambda steps: steps.listing(config("t")),
    "list of all": lambda steps: steps.listing(),
    "filtered list": lambda steps: steps.listing(config("t"), {"source": "loop"}),
    "history": lambda steps: steps.saver._operations.delta_history(steps.saver.serde, config("t"), ["n"]),
    "history of one": lambda steps: steps.saver._operations.delta_history(steps.saver.serde, config("t", 3), ["n"]),
    "as of": lambda steps: steps.saver._operations.get_tuple_as_of(steps.saver.serde, config("t"), 7),
    "as of the end": lambda steps: steps.saver._operations.get_tuple_as_of(steps.saver.serde, config("t"), LATER),
}
CHANGES: dict[str, Callable[[RedisStreamSaver], None]] = {
    "pruned": prune,
    "deleted": lambda saver: saver.delete_thread("t"),
    "begun again": begin_again,
}


@pytest.mark.parametrize("key", KEYS[:1], indirect=True, ids=["hmac"])
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("reading", RACING)
def test_a_signed_read_that_races_a_change(on: Open, reading: str, change: str) -> None:
    """It answers as a read after the change does, whichever of its requests the change came before."""
    writer = on()
    for moment in range(1, 40):
        writer.delete_thread("t")
        fill(writer)
        saver = on()
        steps, sent = Steps(saver), 0

        def meddle(_: Request, moment: int = moment) -> None:
            nonlocal sent
            sent += 1
            if sent == moment:
                CHANGES[change](writer)

        def outcome(before: Any = None, steps: Steps = steps) -> Any:
            flow = RACING[reading](steps)
            try:
                return steps.items(flow, before) if "list" in reading else steps.run(flow, before)
            except (EventGone, InvalidArgument, ThreadNotFound) as error:
                return type(error)

        before = outcome()
        raced = outcome(meddle)
        assert raced in (before, outcome(), EventGone)
        if sent < moment:
            break
    else:
        raise AssertionError("more requests than moments")


def test_a_log_that_always_moves_on_is_refused_in_the_end(on: Open) -> None:
    """With the last error."""
    saver, other = on(), on()
    fill(saver, numbers=range(1, 3))
    steps = Steps(saver)

    def meddle(request: Request) -> None:
        if is_call(request, "read_named"):
            other.delete_thread("t")
            fill(other, numbers=range(1, 3))

    with pytest.raises((CorruptEntry, SignatureInvalid), match="'t'"):
        steps.run(saver._operations.get_tuple(saver.serde, config("t")), meddle)
    assert len(steps.calls("read_checkpoint")) == 20


def test_ends_of_copies_that_are_none(on: Open, audit: Audit, key: SigningKey) -> None:
    """One that was signed for another thread, and one that the end of a later copy does not list, lead nowhere."""
    saver = on()
    fill(saver, "s", range(1, 3))
    saver.copy_thread("s", "u")
    saver.copy_thread("u", "t")
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    entries = tampering.entries()
    (_, ends_u), (_, ends_t) = entries[-2:]
    another = Signer(key).sign(b"u", seal_of(ends_u)[1][4:], Known.begun(entries[-3][0], entries[-3][1][3]))
    for forged in (
        [*entries[:-2], (entries[-2][0], [*ends_u[:4], *another]), entries[-1]],
        [*entries[:-1], (entries[-1][0], ends_u)],
        [*entries[:-2], (entries[-2][0], ends_t), (entries[-1][0], ends_u)],
    ):
        tampering.write(chained(forged))
        audit.forget_views("t")
        assert not on().verify("t").sound
        with pytest.raises(SignatureInvalid):
            on().get_tuple(config("t"))


@pytest.mark.parametrize("seals", [{"x": [1]}, {"": ["1"]}, [1], {"00": 1}], ids=str)
def test_a_copy_that_lists_no_seals_is_refused(on: Open, audit: Audit, key: SigningKey, seals: Any) -> None:
    """An end of a copy whose list has another form counts as none."""
    saver = on()
    fill(saver, "s")
    saver.copy_thread("s", "t")
    keys = audit.keyspace.thread(b"t")
    tampering = Tampering(audit.client, keys)
    *rest, (entry_id, flat) = tampering.entries()
    fields = encode_event(ThreadCopied("s", 16, rest[-1][1][3].decode(), seals={}))
    envelope = {**codec.decode(fields[5]), "seals": seals}
    signed = Signer(key).sign(b"t", [*fields[:5], codec.encode(envelope)], Known.begun(rest[-1][0], rest[-1][1][3]))
    tampering.write(chained([*rest, (entry_id, [*flat[:4], *signed])]))
    assert not on().verify("t").sound
    with pytest.raises(SignatureInvalid, match="another thread"):
        on().get_tuple(config("t"))


# what a writer knows


def calls_of(saver: RedisStreamSaver, *put: Any) -> int:
    steps = Steps(saver)
    saver.setup()
    steps.run(steps.putting(*put))
    return len(steps.calls("save_checkpoint"))


def test_a_writer_learns_the_life_of_a_log(server: Server, prefix: str) -> None:
    """With one more call, once; after a read, and for a new thread, with none. On every server."""
    with opening(server, prefix, KEYS[0]) as on:
        first, second, third = on(), on(), on()
        assert calls_of(first, *put_of("t", 1)) == 1
        assert calls_of(second, *put_of("t", 2, 1)) == 2
        assert calls_of(first, *put_of("t", 3, 2)) == 1
        assert third.get_tuple(config("t")) is not None
        assert calls_of(third, *put_of("t", 4, 3)) == 1
        second.put_writes(config("t", 4), [("n", "write")], "task")
        on().put_writes(config("t", 4), [("n", "write 2")], "task 2")
        first.delete_thread("t")
        assert calls_of(first, *put_of("t", 1)) == 1
        assert calls_of(third, *put_of("t", 5, 4)) == 2  # it knew the life before
        second.put_writes(config("t", 5), [("n", "write")], "task")
        assert first.verify("t").sound, first.verify("t").findings
        first.delete_thread("t")
        assert calls_of(third, *put_of("t", 6, 5)) == 2  # it begins one
        assert third.verify("t").sound
        third.copy_thread("t", "copy")
        assert calls_of(third, *put_of("copy", 7, 6)) == 1
        third.prune(["t", "copy"])
        assert calls_of(third, *put_of("t", 8, 7)) == 1
        assert third.verify("copy").sound


def test_first_events_in_flight_take_one_call_each(on: Open, audit: Audit) -> None:
    """Writes that are signed before the reply to the first checkpoint begin the same life."""
    saver = on()
    saver.setup()
    steps = Steps(saver)

    def meanwhile(_: object) -> None:
        if len(steps.requests) == 0:
            saver.put_writes(config("t", 1), [("n", "write")], "task")

    steps.run(steps.putting(*put_of("t", 1)), meanwhile)
    assert len(steps.calls("save_checkpoint")) == 1
    fill(saver, numbers=range(2, 4))
    assert saver.verify("t").sound, saver.verify("t").findings
    seals = [seal_of(flat)[0] for _, flat in Tampering(audit.client, audit.keyspace.thread(b"t")).entries()]
    assert [seal.seen for seal in seals if seal][:2] == [b"", b""]
    assert len({seal.life for seal in seals if seal}) == 1


def test_two_processes_that_begin_one_thread_agree(on: Open) -> None:
    """The one whose event came second takes on the life of the first."""
    savers = [on() for _ in range(4)]
    for saver in savers:
        saver.setup()
    for number in range(12):
        begun = [
            threading.Thread(target=saver.put, args=put_of(f"t{number}", at + 1)) for at, saver in enumerate(savers)
        ]
        for one in begun:
            one.start()
        for one in begun:
            one.join()
        found = savers[0].verify(f"t{number}")
        assert (found.sound, found.entries) == (True, 4), found.findings


def test_a_second_writer_without_knowledge_is_found(on: Open, audit: Audit, key: SigningKey) -> None:
    """Only the writer that drew the mark has events that have seen nothing."""
    fill(on())
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    entries = tampering.entries()
    seal, fields = seal_of(entries[-1][1])
    assert seal is not None
    signed = Signer(key).sign(b"t", fields[4:], Known(seal.life))
    tampering.write(chained([*entries, (later(entries), [*entries[-1][1][:4], *signed])]))
    assert kinds(on().verify("t")) == {"inserted"}


def test_a_writer_refuses_a_log_that_ends_unsigned(on: Open, any_server: Server, prefix: str) -> None:
    """Nothing is written, and the error names the thread."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, partitions=1) as plain:
        fill(plain)
        saver = on()
        with pytest.raises(SignatureInvalid, match="Nothing was written to thread 't'"):
            saver.put(*put_of("t", 9, 8))
        with pytest.raises(SignatureInvalid, match="Nothing was written to thread 't'"):
            saver.put_writes(config("t", 8), [("n", 1)], "task")
        assert plain.verify("t").entries == 16
        assert plain.verify("t").unchecked == 0


def test_a_thread_that_always_begins_again_is_busy(on: Open) -> None:
    """After some attempts, with a typed error."""
    saver, other = on(), on()
    saver.setup()
    steps = Steps(saver)

    def meanwhile(_: object) -> None:
        other.delete_thread("t")
        other.put(*put_of("t", 1))

    with pytest.raises(ThreadBusy, match="'t'"):
        steps.run(steps.putting(*put_of("t", 9)), meanwhile)
    writes = [("n", 1)]
    flow = saver._operations.put_writes(saver.serde, config("t", 9), writes, "task", "")
    with pytest.raises(ThreadBusy, match="'t'"):
        steps.run(flow, meanwhile)
    assert other.verify("t").sound


def test_an_index_that_lies_about_the_digest_is_found(on: Open, audit: Audit) -> None:
    """A writer that was led into another life signs for its own, and the chain is broken besides."""
    saver, other = on(), on()
    fill(saver)
    other.delete_thread("t")
    fill(other)
    keys = audit.keyspace.thread(b"t")
    known = saver._operations.keyspace.thread(b"t").known()
    assert known is not None
    audit.client.hset(keys.index, "d", known.digest)
    saver.put(*put_of("t", 9, 8))
    assert kinds(on().verify("t")) >= {"altered", "other life"}
    with pytest.raises(SignatureInvalid):
        on().get_tuple(config("t"))


# threads that an older version began


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Lets new lives begin as the version before did, until it is called."""
    with monkeypatch.context() as patched:
        patched.setattr(Known, "begun", classmethod(lambda cls, *seen: cls(b"", *seen)))
        yield patched.undo


def test_a_thread_of_an_older_version_goes_on(on: Open, audit: Audit, older: Callable[[], None]) -> None:
    """With seals of that version, read and verified as before; verifying says how many have no mark. A copy has marks."""
    saver = on()
    fill(saver)
    older()
    new = on()
    assert new.get_tuple(config("t")) is not None
    fill(new, numbers=range(9, 11))
    on().put(*put_of("t", 11, 10))
    entries = Tampering(audit.client, audit.keyspace.thread(b"t")).entries()
    assert all(flat[flat.index(b"g") + 1].startswith(b"12:") for _, flat in entries)
    found = new.verify("t")
    assert (found.sound, found.signed, found.unmarked) == (True, 21, 21), found.findings
    new.copy_thread("t", "copy")
    new.prune(["t"], keep_last=3)
    found = new.verify("t")
    assert (found.sound, found.unmarked) == (True, found.signed)
    copied = new.verify("copy")
    assert (copied.sound, copied.signed, copied.unmarked) == (True, 22, 21)
    new.delete_thread("t")
    fill(new)
    found = new.verify("t")
    assert (found.sound, found.unmarked) == (True, 0)


def test_seals_without_a_mark_do_not_enter_a_life_with_one(on: Open, audit: Audit, older: Callable[[], None]) -> None:
    """Nor the other way round."""
    tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
    saver = on()
    fill(saver)
    unmarked = tampering.entries()
    older()
    saver.delete_thread("t")
    fill(saver)
    marked = tampering.entries()
    for log, stolen in ((marked, unmarked[14]), (unmarked, marked[14])):
        tampering.write(chained([*log[:14], (log[14][0], stolen[1]), log[15]]))
        audit.forget_views("t")
        assert "other life" in kinds(on().verify("t"))
        with pytest.raises(SignatureInvalid, match="another life"):
            on().get_tuple(config("t"))


def test_views_can_be_built_again_at_any_time(on: Open, audit: Audit) -> None:
    """A mark is in no view, so a writer goes on after a rebuild with one call."""
    saver = on()
    fill(saver)
    audit.forget_views("t")
    saver._runner.run(rebuild_index(Keyspace(saver._operations.keyspace.prefix, 1).thread(b"t")), "t")
    assert calls_of(saver, *put_of("t", 9, 8)) == 1
    assert saver.verify("t").sound
