"""A saver with a signing key: graphs run as ever, and nothing that was altered is deserialized."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from eventlog import codec
from eventlog.errors import CorruptEntry, EventLogError, InvalidArgument, SignatureInvalid
from eventlog.feed.feed import ActivityFeed
from eventlog.framing import counted, ordered
from eventlog.keys import checkpoint_sort_key, value_name
from eventlog.signing import SigningKey
from saver import RedisStreamSaver
from tests.projections.tampering import Entry, Tampering, bent, chained, later, with_field
from tests.saver import test_graphs
from tests.saver.audit import Audit, checkpoint_id, config, put_of
from tests.saver.drivers import Call, call_async, call_now
from tests.saver.threads import follow, step
from tests.servers import Server

SECRET = b"a secret of sixteen bytes or more"
PRIVATE = bytes(range(32))


class Recording(JsonPlusSerializer):
    """Counts what it is given to deserialize."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = 0

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """As ever."""
        self.loaded += 1
        return super().loads_typed(data)


def encrypting(inner: Recording) -> EncryptedSerializer:
    return EncryptedSerializer.from_pycryptodome_aes(inner, key=b"0123456789abcdef")


@contextmanager
def opened(server: Server, prefix: str, **options: Any) -> Iterator[RedisStreamSaver]:
    with RedisStreamSaver.from_conn_string(
        server.url, prefix=prefix, partitions=1, **{"signing_key": SECRET, **options}
    ) as one:
        yield one


def fill(saver: RedisStreamSaver, thread: str = "t", count: int = 4, namespace: str = "") -> None:
    for number in range(1, count + 1):
        saver.put(*put_of(thread, number, number - 1 or None, shared=True, namespace=namespace))
        saver.put_writes(config(thread, number, namespace), [("n", f"write {number}")], f"task {number}")


@pytest.fixture
async def saver(server: Server, prefix: str) -> Any:
    """A saver that signs, on each server in turn; every thread it wrote is sound in the end."""
    async with RedisStreamSaver.from_conn_string(server.url, prefix=prefix, signing_key=SECRET) as one:
        yield one
        threads = [found.thread_id async for found in one.athreads()]
        for thread in threads:
            found = await one.averify(thread)
            assert found.sound, found.findings
            assert found.signed == found.entries > 0


SCENARIOS = [
    "test_react_agent",
    "test_map_reduce",
    "test_forks",
    "test_replay_of_a_graph_with_a_nested_one",
    "test_delta_channels_in_forks_and_updates",
    "test_retry_keeps_the_siblings_writes",
    "test_functional_api",
    "test_one_saver_in_two_graphs",
]


@pytest.mark.context
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_graphs_run_signed(saver: RedisStreamSaver, call: Call, scenario: str) -> None:
    """What graphs do on a saver without a key they do on one with."""
    await getattr(test_graphs, scenario)(saver, call)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
async def test_delta_channels_run_signed(saver: RedisStreamSaver, call: Call, durability: str) -> None:
    """Delta channels are rebuilt from signed writes."""
    await test_graphs.test_delta_channels(saver, call, durability)


# what is refused

Read = Callable[[RedisStreamSaver, Any], Any]
READS: dict[str, Read] = {
    "latest": lambda saver, _: call_now(saver, "get_tuple", config("t")),
    "by id": lambda saver, _: call_now(saver, "get_tuple", config("t", 3)),
    "list": lambda saver, _: call_now(saver, "list", config("t")),
    "list of all": lambda saver, _: call_now(saver, "list", None),
    "list of one": lambda saver, _: call_now(saver, "list", config("t", 3)),
    "list with a filter": lambda saver, _: call_now(saver, "list", config("t"), filter={"step": 3}),
    "delta history": lambda saver, _: call_now(saver, "get_delta_channel_history", config=config("t"), channels=["n"]),
    "as of": lambda saver, _: call_now(saver, "get_tuple_as_of", config("t"), 6),
    "replay": lambda saver, _: [one.state for one in saver.replay("t") if one.sequence == 6],
    "prune": lambda saver, _: saver.prune(["t"]),
    "delete for runs": lambda saver, _: saver.delete_for_runs(["r"]),
}


def third(change: Callable[[Entry], Entry]) -> Callable[[list[Entry]], list[Entry]]:
    """Changes the entries of the third checkpoint, and of its writes."""
    return lambda entries: [*entries[:4], *map(change, entries[4:6]), *entries[6:]]


def unsigned(entry: Entry) -> Entry:
    entry_id, flat = entry
    at = flat.index(b"g")
    return entry_id, [*flat[:at], *flat[at + 2 :]]


EVIL = codec.encode({"ns": "", "id": checkpoint_id(3), "checkpoint": {}, "metadata": ["json", b"{}"]})
ALTERED = {
    "a byte": third(bent),
    "the envelope": third(lambda one: with_field(one, b"e", EVIL)),
    "no signature": third(unsigned),
    "no signature that can be read": third(lambda one: with_field(one, b"g", b"\xa0")),
    "another's signature": third(lambda one: with_field(one, b"g", b"1:x1:x1:10:0:1:x")),
}


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("change", ALTERED.values(), ids=ALTERED)
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_what_was_altered_is_refused(
    any_server: Server, prefix: str, read: Read, change: Callable[[list[Entry]], list[Entry]], *, encrypted: bool
) -> None:
    """By every read, before the serializer is given anything of it: neither values nor metadata, encrypted or not."""
    inner = Recording()
    serde = encrypting(inner) if encrypted else inner
    with opened(any_server, prefix, serde=serde) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver)
        tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
        entries = tampering.entries()
        changed = chained(change(entries))
        if read is READS["latest"] or read is READS["delta history"]:
            changed = changed[:6]
        tampering.write(changed)
        audit.forget_views("t")
        inner.loaded = 0
        allowed = 0
        with pytest.raises(EventLogError) as caught:
            read(saver, None)
        assert isinstance(caught.value, SignatureInvalid), caught.value
        assert "'t'" in str(caught.value)
        if read not in (READS["list"], READS["list of all"], READS["replay"]):
            assert inner.loaded == allowed


def test_values_behind_an_activity_are_refused(any_server: Server, prefix: str) -> None:
    """Of a checkpoint, and of writes."""
    inner = Recording()
    with (
        opened(any_server, prefix, serde=inner) as saver,
        Audit(any_server.url, prefix, 1) as audit,
        ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed,
    ):
        fill(saver)
        told = list(feed.tail("beginning", follow=False))
        assert [list(saver.load_values(one)) for one in told[4:6]][1] == [("n", "write 3")]
        tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
        tampering.write(chained(third(bent)(tampering.entries())))
        audit.forget_views("t")
        inner.loaded = 0
        for one in told[4:6]:
            with pytest.raises(SignatureInvalid):
                saver.load_values(one)
        assert inner.loaded == 0


def test_heads_are_not_believed(any_server: Server, prefix: str) -> None:
    """A head that says something else changes nothing."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver)
        before = saver.get_tuple(config("t"))
        head = audit.keyspace.thread(b"t").head(b"")
        for name, value in audit.client.hgetall(head).items():
            if name[:1] in (b"=", b"!", b"e"):
                audit.client.hset(head, name, value[:-1] + b"?")
        assert saver.get_tuple(config("t")) == before


def test_an_order_that_leaves_out_the_newest_is_found_by_check(any_server: Server, prefix: str) -> None:
    """Reads give the checkpoint before it, and no writes that the order leaves out; `verify` looks at the log alone."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver)
        order = audit.keyspace.thread(b"t").order
        hidden = [member for member in audit.client.zrange(order, 0, -1) if checkpoint_id(4).encode() in member]
        audit.client.zrem(order, *hidden, *(one for one in audit.client.zrange(order, 0, -1) if one[:1] == b"w"))
        found = saver.get_tuple(config("t"))
        assert found is not None
        assert (found.checkpoint["id"], found.pending_writes) == (checkpoint_id(3), [])
        assert saver.verify("t").sound
        assert not saver.check("t").ok
        saver.rebuild("t")
        assert saver.check("t").ok


def order_to_another_checkpoint(audit: Audit, entries: list[Entry]) -> None:
    keys = audit.keyspace.thread(b"t")
    place = b"c" + checkpoint_sort_key(b"", checkpoint_id(4).encode())
    audit.client.zrem(keys.order, place + entries[6][0])
    audit.client.zadd(keys.order, {place + entries[4][0]: 0})


def order_to_anothers_writes(audit: Audit, entries: list[Entry]) -> None:
    keys = audit.keyspace.thread(b"t")
    place = b"w" + checkpoint_sort_key(b"", checkpoint_id(4).encode())
    audit.client.zrem(keys.order, place + ordered(b"task 4") + entries[7][0])
    audit.client.zadd(keys.order, {place + ordered(b"task 4") + entries[5][0]: 0})


def index_to_nothing(audit: Audit, entries: list[Entry]) -> None:
    keys = audit.keyspace.thread(b"t")
    audit.client.hdel(keys.index, b"v" + counted(b"") + value_name(b"n", b"sv4"))


def index_to_another_namespace(audit: Audit, entries: list[Entry]) -> None:
    """Where the same version of the same channel is another value."""
    keys = audit.keyspace.thread(b"t")
    theirs = audit.client.hget(keys.index, b"v" + counted(b"sub") + value_name(b"n", b"sv4"))
    audit.client.hset(keys.index, b"v" + counted(b"") + value_name(b"n", b"sv4"), theirs)


@pytest.mark.parametrize(
    "alter", [order_to_another_checkpoint, order_to_anothers_writes, index_to_nothing, index_to_another_namespace]
)
@pytest.mark.parametrize("name", ["latest", "list", "list of all"])
def test_views_that_lead_elsewhere_are_refused(
    any_server: Server, prefix: str, alter: Callable[[Audit, list[Entry]], None], name: str
) -> None:
    """Entries that are signed, in another one's place; an index that leaves a value out."""
    inner = Recording()
    with opened(any_server, prefix, serde=inner) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver)
        fill(saver, namespace="sub")
        alter(audit, Tampering(audit.client, audit.keyspace.thread(b"t")).entries())
        inner.loaded = 0
        with pytest.raises(SignatureInvalid, match="an index was altered"):
            READS[name](saver, None)
        assert inner.loaded == (4 if name == "list of all" else 0)  # those of the other namespace come first


@pytest.mark.parametrize("renumbered", [False, True])
def test_a_value_that_was_taken_out_of_log_and_index_is_refused(
    any_server: Server, prefix: str, *, renumbered: bool
) -> None:
    """A checkpoint that lacks a value is not believed if the log is not whole, be it numbered and chained again."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        first = step({"a": "kept", "n": 1})
        saved = saver.put(config("t"), *first)
        for number in (2, 3):
            first = follow(first, {"n": number})
            saved = saver.put(saved, *first)
        keys = audit.keyspace.thread(b"t")
        tampering = Tampering(audit.client, keys)
        taken, *rest = tampering.entries()
        tampering.write(chained(rest) if renumbered else rest)
        audit.client.delete(keys.head(b""))
        (field,) = [
            name
            for name, place in audit.client.hgetall(keys.index).items()
            if name.endswith(b"a") and place[:-8] == taken[0]
        ]
        audit.client.hdel(keys.index, field)
        for member in audit.client.zrange(keys.order, 0, -1):
            if member.endswith(taken[0]):
                audit.client.zrem(keys.order, member)
        with opened(any_server, prefix) as other, pytest.raises(SignatureInvalid, match="'t'"):
            other.get_tuple(config("t"))


def test_ancestors_that_lead_elsewhere_are_refused(any_server: Server, prefix: str) -> None:
    """A walk up the parents that is led to another checkpoint, at its first step or later."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        keys = audit.keyspace.thread(b"t")
        for number in range(1, 6):
            saver.put(*put_of("t", number, number - 1 or None, channels=("n",) if number == 1 else ("m",)))
        entries = Tampering(audit.client, keys).entries()
        wanted: Any = {"config": config("t"), "channels": ["n"]}
        assert saver.get_delta_channel_history(**wanted)["n"]["seed"] == [1, "value 1"]
        for number in (5, 4, 3):
            place = b"c" + checkpoint_sort_key(b"", checkpoint_id(number).encode())
            audit.client.zrem(keys.order, place + entries[number - 1][0])
            audit.client.zadd(keys.order, {place + entries[0 if number > 3 else 1][0]: 0})
            with pytest.raises(SignatureInvalid):
                saver.get_delta_channel_history(**wanted)
            audit.client.delete(keys.order)
            assert saver.get_delta_channel_history(**wanted)["n"]["seed"] == [1, "value 1"]


def test_an_event_of_another_thread_is_refused(any_server: Server, prefix: str) -> None:
    """Signed all right, and not for this one; of a copy, what the source wrote later."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver, "u")
        fill(saver)
        saver.copy_thread("u", "v")
        assert saver.get_tuple(config("v")) is not None
        saver.put(*put_of("u", 9, 4))
        stolen = Tampering(audit.client, audit.keyspace.thread(b"u")).entries()[-1]
        for thread in ("t", "v"):
            tampering = Tampering(audit.client, audit.keyspace.thread(thread.encode()))
            entries = tampering.entries()
            tampering.write(chained([*entries, (later(entries), stolen[1])]), mend=False)
            with pytest.raises(SignatureInvalid, match="signed for another thread"):
                saver.get_tuple(config(thread))


# keys


def test_keys_change(any_server: Server, prefix: str) -> None:
    """What was signed before is read while its key is accepted; without it, it is refused."""
    old, new = SigningKey.hmac(SECRET), SigningKey.ed25519(PRIVATE)
    with opened(any_server, prefix, signing_key=old) as saver:
        fill(saver)
    with opened(any_server, prefix, signing_key=new, accepted_keys=[old]) as saver:
        saver.put(*put_of("t", 9, 4))
        assert saver.verify("t").sound
        assert len(list(saver.list(config("t")))) == 5
    with opened(any_server, prefix, signing_key=new) as saver:
        with pytest.raises(SignatureInvalid, match="accepted_keys"):
            saver.get_tuple(config("t", 3))
        assert {one.kind for one in saver.verify("t").findings} == {"forged"}


def test_a_public_half_reads_and_verifies(any_server: Server, prefix: str) -> None:
    """And cannot write."""
    private = SigningKey.ed25519(PRIVATE)
    with opened(any_server, prefix, signing_key=private) as saver:
        fill(saver)
    with opened(any_server, prefix, signing_key=private.public()) as auditor:
        assert auditor.get_tuple(config("t")) is not None
        assert auditor.verify("t").signed == 8
        for write in (lambda: fill(auditor), lambda: auditor.prune(["t"]), lambda: auditor.copy_thread("t", "u")):
            with pytest.raises(InvalidArgument, match="cannot sign"):
                write()  # type: ignore[no-untyped-call]
        assert auditor.verify("t").entries == 8


def test_a_thread_from_before_there_was_a_key(any_server: Server, prefix: str) -> None:
    """Is refused, and the error says who can read it; a saver without a key reads signed threads."""
    with opened(any_server, prefix, signing_key=None) as saver:
        fill(saver)
    with opened(any_server, prefix) as saver:
        with pytest.raises(SignatureInvalid, match="Thread 't': .* is not signed.*read by a saver without one"):
            saver.get_tuple(config("t"))
        fill(saver, "u")
    with opened(any_server, prefix, signing_key=None) as saver:
        assert len(list(saver.list(None))) == 8


async def test_in_both_drivers(any_server: Server, prefix: str) -> None:
    """The async methods refuse as well."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver)
        tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
        tampering.write(chained(third(bent)(tampering.entries())[:6]))
        audit.forget_views("t")
        for method, arguments in (("get_tuple", (config("t"),)), ("list", (config("t"),)), ("replay", ("t",))):
            with pytest.raises(SignatureInvalid):
                await call_async(saver, method, *arguments)


def test_upkeep_of_a_signed_thread(any_server: Server, prefix: str) -> None:
    """Pruned, copied, archived away by runs: it reads and verifies."""
    with opened(any_server, prefix) as saver:
        fill(saver)
        saver.prune(["t"], keep_last=2)
        saver.copy_thread("t", "u")
        saver.put(*put_of("u", 9, 4, run="q"))
        saver.delete_for_runs(["q"])
        for thread in "tu":
            assert [one.checkpoint["id"] for one in saver.list(config(thread))] == [checkpoint_id(4), checkpoint_id(3)]
            assert saver.verify(thread).sound


def test_copies_that_end_before_their_source_became_a_copy(any_server: Server, prefix: str) -> None:
    """Of what was signed for a thread two copies back: it reads and verifies, and so does a copy of that."""
    with opened(any_server, prefix) as saver:
        fill(saver)
        half = saver.verify("t").sequence // 2
        saver.copy_thread("t", "u")
        saver.put(*put_of("u", 9, 4))
        saver.copy_thread("u", "v", until=half)
        saver.put(*put_of("v", 8, 1))
        saver.copy_thread("v", "w", until=half - 1)
        saver.copy_thread("v", "x")
        latest = {"v": 8, "w": 2, "x": 8}
        with opened(any_server, prefix) as other:
            for thread, number in latest.items():
                assert other.verify(thread).sound, other.verify(thread).findings
                assert [one.checkpoint["id"] for one in other.list(config(thread), limit=1)] == [checkpoint_id(number)]


def test_an_index_without_an_end_is_no_end(any_server: Server, prefix: str) -> None:
    """A saver that read it goes on all the same."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver)
        keys = audit.keyspace.thread(b"t")
        with opened(any_server, prefix) as other:
            audit.client.hdel(keys.index, b"l")
            other.get_tuple(config("t"))
            other.rebuild("t")
            other.put(*put_of("t", 9, 4))
            assert other.verify("t").sound


def test_a_nearer_value_that_an_index_leaves_out_is_refused(any_server: Server, prefix: str) -> None:
    """Delta channels are not rebuilt from an older value than there is."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        state = step({"n": 1, "m": 1})
        saved = saver.put(config("t"), *state)
        for values in ({"n": 2}, {"m": 3}, {"m": 4}):
            state = follow(state, values)
            saved = saver.put(saved, *state)
        wanted: Any = {"config": config("t"), "channels": ["n"]}
        assert saver.get_delta_channel_history(**wanted)["n"]["seed"] == 2
        keys = audit.keyspace.thread(b"t")
        second = audit.client.xrange(keys.log)[1][0]
        fields = audit.client.hgetall(keys.index)
        audit.client.hdel(
            keys.index, *(name for name, place in fields.items() if name[:1] == b"v" and place[:-8] == second)
        )
        with pytest.raises(SignatureInvalid):
            saver.get_delta_channel_history(**wanted)


def test_an_altered_history_is_not_signed_over(any_server: Server, prefix: str) -> None:
    """A removal would make it look as if all were well."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver, count=3)
        tampering = Tampering(audit.client, audit.keyspace.thread(b"t"))
        entries = tampering.entries()
        tampering.write(chained([*entries[:3], *entries[4:]]))
        audit.forget_views("t")
        with opened(any_server, prefix) as other:
            before = other.verify("t").findings
            assert before
            with pytest.raises(SignatureInvalid, match="Nothing was removed"):
                other.prune(["t"])
            with pytest.raises(SignatureInvalid, match="Nothing was removed"):
                other.delete_for_runs(["r"])
            assert other.verify("t").findings == before


def test_a_copy_whose_last_entry_was_touched_is_verified(any_server: Server, prefix: str) -> None:
    """With findings rather than an error."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, 1) as audit:
        fill(saver, "s")
        for target, touch in (
            ("id", lambda entry: (entry[0][:-1] + b"1", entry[1])),
            ("number", lambda entry: (entry[0], [b"n", b"x", *entry[1][2:]])),
        ):
            saver.copy_thread("s", target)
            tampering = Tampering(audit.client, audit.keyspace.thread(target.encode()))
            *rest, last = tampering.entries()
            tampering.write([*rest, touch(last)])
            assert not saver.verify(target).sound
            with pytest.raises((SignatureInvalid, CorruptEntry)):
                saver.list(config(target)).__next__()


def test_begun_anew_is_not_rolled_back(any_server: Server, prefix: str) -> None:
    """For a writer that knew the log before: after the feed was trimmed, after an expiry, and in copies of such."""
    with opened(any_server, prefix) as saver, opened(any_server, prefix) as other:
        fill(saver, "trimmed")
        other.get_tuple(config("trimmed"))
        saver.delete_thread("trimmed")
        other.put(*put_of("trimmed", 1))
        with ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed:
            feed.trim(0)
        assert saver.verify("trimmed").sound, saver.verify("trimmed").findings
        with opened(any_server, prefix, ttl=0.005) as mortal:
            fill(mortal, "expired", count=2)
            other.get_tuple(config("expired"))
            time.sleep(0.5)
            other.put(*put_of("expired", 3))
        assert saver.verify("expired").sound, saver.verify("expired").findings
        for source in ("trimmed", "expired"):
            saver.copy_thread(source, f"copy of {source}")
            saver.delete_thread(source)
            with ActivityFeed.from_conn_string(any_server.url, prefix=prefix) as feed:
                feed.trim(0)
            found = saver.verify(f"copy of {source}")
            assert found.sound, found.findings


def test_a_forged_pointer_stops_no_copy_and_no_export(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """A signed log counts more than a pointer that contradicts it; a removal waits until the pointer is gone."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, partitions=1) as audit:
        fill(saver)
        feed = audit.keyspace.thread(b"t").shared.feed
        _, true = audit.client.xrange(feed)[0]
        pointer = audit.client.xadd(feed, {**true, b"seq": "99"}).decode()
        assert {one.kind for one in saver.verify("t").findings} == {"pointer"}
        saver.copy_thread("t", "copy")
        assert saver.verify("copy").sound
        assert saver.export_threads(tmp_path / "e", ["t"]).entries == 8
        removals: list[Callable[[], object]] = [
            lambda: saver.prune(["t"], keep_last=1),
            lambda: saver.delete_for_runs(["r"]),
            lambda: saver.archive_thread("t", tmp_path / "archive"),
        ]
        for remove in removals:
            with pytest.raises(
                SignatureInvalid, match=rf"XDEL {re.escape(feed.decode())} {pointer}.*Nothing was removed"
            ):
                remove()
        assert saver.verify("t").entries == 8
        audit.client.xdel(feed, pointer)
        saver.prune(["t"], keep_last=1)
        assert saver.verify("t").sound


def test_a_pointer_does_not_hide_what_is_wrong_with_a_log(any_server: Server, prefix: str, tmp_path: Path) -> None:
    """A forged pointer beside an altered event: the event is refused as ever."""
    with opened(any_server, prefix) as saver, Audit(any_server.url, prefix, partitions=1) as audit:
        fill(saver)
        keys = audit.keyspace.thread(b"t")
        _, true = audit.client.xrange(keys.shared.feed)[0]
        audit.client.xadd(keys.shared.feed, {**true, b"seq": "99"})
        tampering = Tampering(audit.client, keys)
        first, *rest = tampering.entries()
        tampering.write(chained([bent(first), *rest]))
        for refused in (lambda: saver.copy_thread("t", "copy"), lambda: saver.export_threads(tmp_path / "e", ["t"])):
            with pytest.raises(SignatureInvalid, match="does not have the content that was signed"):
                refused()
