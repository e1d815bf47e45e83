"""Fuzzers of logs: a mutated log gives typed errors or right answers, and a signed one is never accepted.

A usual run takes some seconds and is the same each time. `FUZZ_EXAMPLES=20000 scripts/test tests/fuzz` looks for long, and
at random; a failure then prints how to repeat it.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from eventlog import audit
from eventlog.errors import CorruptEntry, EventLogError, SignatureInvalid
from saver import RedisStreamSaver
from tests.fuzz.conftest import EXAMPLES
from tests.fuzz.mutations import Snapshot, bounded, bounded_memory, mutated_log
from tests.projections.tampering import Entry, Tampering
from tests.saver.audit import config, put_of
from tests.saver.threads import keys_of
from tests.servers import Server

SECRET = bytes(range(32))
State = tuple[Any, ...]


class Target:
    """A thread "t" with all kinds of events, and its neighbour "u", which come back after each example."""

    def __init__(self, server: Server, key: bytes | None) -> None:
        self.prefix = "t" + uuid.uuid4().hex[:8]
        self.key = key
        self.url = server.url
        self.client: Any = server.client()
        self.keys = keys_of(self.prefix, "t", 1)
        self.states: dict[tuple[str, str], list[State]] = {}
        with self.saver() as saver:
            for _ in filled(saver):
                for found in states(saver):
                    self.states.setdefault((found[0], found[1]), []).append(found)
        self.log = Tampering(self.client, self.keys).entries()
        self.sequence, self.digest = int(self.log[-1][1][1]), self.log[-1][1][3].decode()
        with self.saver() as saver:
            assert saver.verify("t").sound
            for found in self._past(saver):
                self.states.setdefault((found[0], found[1]), []).append(found)
        self.snapshot = Snapshot(self.client, self.prefix)

    def _past(self, saver: RedisStreamSaver) -> Iterator[State]:
        """The states that there were, and that were not pruned."""
        for number in range(1, self.sequence + 1):
            for namespace in ("", "sub|1"):
                found = outcome(saver.get_tuple_as_of, config("t", namespace=namespace), number)
                if found is not None:
                    yield state_of(found)

    def saver(self, **options: Any) -> RedisStreamSaver:
        """A saver that knows nothing yet."""
        return RedisStreamSaver.from_conn_string(
            self.url, prefix=self.prefix, partitions=1, signing_key=self.key, **options
        )

    @contextlib.contextmanager
    def with_log(self, log: Sequence[Entry], views: str) -> Iterator[None]:
        """Has another log in place within the block, with the views that there were, none, or an index that fits."""
        self.snapshot.restore()
        tampering = Tampering(self.client, self.keys)
        tampering.write(log, mend=False)
        if views == "none":
            self.client.delete(
                *(key for key in self.snapshot.present() if b":index:" in key or b":order:" in key or b":head:" in key)
            )
        elif views == "fitting":
            with contextlib.suppress(IndexError):
                tampering.client.hset(
                    self.keys.index,
                    mapping={b"n": log[-1][1][1], b"d": log[-1][1][3], b"l": log[-1][0], b"c": b"%d" % len(log)},
                )
        yield


def filled(saver: RedisStreamSaver) -> Iterator[None]:
    """Checkpoints with deltas, writes, a subgraph, stamps, a pruning, deleted runs, and a copy, with a break after some."""
    for number in range(1, 5):
        with audit(actor="ann", reason=f"reason {number}"):
            saver.put(*put_of("s", number, number - 1 or None, shared=True, run=f"run {number}"))
        saver.put_writes(config("s", number), [("n", f"write {number}")], f"task {number}")
    saver.prune(["s"], keep_last=3)
    saver.copy_thread("s", "t")
    for number in range(5, 8):
        saver.put(*put_of("t", number, number - 1, shared=True, channels=("n", "m"), run=f"run {number}"))
        saver.put_writes(config("t", number), [("n", [number]), ("m", b"bytes")], f"task {number}", "path")
        yield
    for number in (1, 2):
        saver.put(*put_of("t", number, namespace="sub|1", run="sub"))
        yield
    saver.delete_for_runs(["run 6"])
    saver.put(*put_of("t", 8, 7, shared=True, channels=("n", "m"), run="run 8"))
    saver.put(*put_of("u", 1))
    yield


def state_of(found: Any) -> State:
    """Namespace and id, values, metadata, parent and writes of a checkpoint."""
    named = found.config["configurable"]
    parent = found.parent_config and found.parent_config["configurable"]["checkpoint_id"]
    return (
        named["checkpoint_ns"],
        named["checkpoint_id"],
        found.checkpoint["channel_values"],
        found.checkpoint["channel_versions"],
        found.metadata,
        parent,
        found.pending_writes or [],
    )


def states(saver: RedisStreamSaver) -> list[State]:
    """All states of the thread."""
    return [state_of(one) for one in saver.list({"configurable": {"thread_id": "t"}})]


READS: dict[str, Callable[[RedisStreamSaver], list[State]]] = {
    "latest": lambda saver: [state_of(one) for one in [saver.get_tuple(config("t"))] if one],
    "of a subgraph": lambda saver: [state_of(one) for one in [saver.get_tuple(config("t", namespace="sub|1"))] if one],
    "by id": lambda saver: [state_of(one) for one in [saver.get_tuple(config("t", 5))] if one],
    "list": states,
    "list of all": lambda saver: [
        state_of(one) for one in saver.list(None) if one.config["configurable"]["thread_id"] == "t"
    ],
    "as of": lambda saver: [state_of(one) for one in [saver.get_tuple_as_of(config("t"), 9)] if one],
    "as of the first": lambda saver: [state_of(one) for one in [saver.get_tuple_as_of(config("t"), 1)] if one],
}
LOOKS: dict[str, Callable[[RedisStreamSaver, Path], Any]] = {
    "replay": lambda saver, _: list(saver.replay("t")),
    "history": lambda saver, _: saver.get_delta_channel_history(config=config("t"), channels=["n"]),
    "threads": lambda saver, _: list(saver.threads()),
    "check": lambda saver, _: saver.check("t"),
    "export": lambda saver, path: saver.export_threads(path / "e", ["t"], overwrite=True),
    "export of damage": lambda saver, path: saver.export_threads(path / "d", damaged=True, overwrite=True),
}
WRITES: dict[str, Callable[[RedisStreamSaver, Path], Any]] = {
    "put": lambda saver, _: saver.put(*put_of("t", 9, 8, shared=True)),
    "writes": lambda saver, _: saver.put_writes(config("t", 8), [("n", 1)], "task"),
    "copy": lambda saver, _: saver.copy_thread("t", "copy"),
    "copy of a part": lambda saver, _: saver.copy_thread("t", "part", until=7),
    "prune": lambda saver, _: saver.prune(["t"], keep_last=1),
    "runs": lambda saver, _: saver.delete_for_runs(["run 7"]),
    "archive": lambda saver, path: saver.archive_thread("t", path / uuid.uuid4().hex),
    "rebuild": lambda saver, _: saver.rebuild("t"),
    "delete": lambda saver, _: saver.delete_thread("t"),
}


def is_state_of(target: Target, found: State) -> bool:
    """Whether a checkpoint is as it was written; its writes may be those of an earlier moment."""
    there = target.states.get((found[0], found[1]), ())
    return any(found[:6] == one[:6] and all(write in one[6] for write in found[6]) for one in there)


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call, None for a typed error; other errors are raised."""
    try:
        return call(*arguments)
    except EventLogError as error:
        assert str(error)
        return None


@pytest.fixture(scope="module")
def plain(any_server: Server) -> Target:
    """A target without signatures."""
    return Target(any_server, None)


@pytest.fixture(scope="module")
def signed(any_server: Server) -> Target:
    """A target whose events are signed."""
    return Target(any_server, SECRET)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for files."""
    return tmp_path_factory.mktemp("fuzz")


pytestmark = pytest.mark.timeout(0 if EXAMPLES else 120)
views = st.sampled_from(["kept", "none", "fitting"])


@given(data=st.data(), views=views)
@bounded(25)
def test_a_mutated_log(plain: Target, directory: Path, data: st.DataObject, views: str) -> None:
    """Every call gives a result or a typed error, and another thread can be read."""
    log = data.draw(mutated_log(plain.log))
    with plain.with_log(log, views), plain.saver() as saver, bounded_memory():
        for read in READS.values():
            outcome(read, saver)
        for look in (*LOOKS.values(), *WRITES.values()):
            outcome(look, saver, directory)
        outcome(saver.verify, "t")
        assert saver.get_tuple(config("u")) is not None


@given(data=st.data(), views=views)
@bounded(25)
def test_a_mutated_signed_log(signed: Target, directory: Path, data: st.DataObject, views: str) -> None:
    """Reads give states that were written, or typed errors; a verification finds the change, also after more writes."""
    log = data.draw(mutated_log(signed.log))
    changed = log != signed.log
    only_cut = [flat for _, flat in log] == [flat for _, flat in signed.log[: len(log)]] and [
        one for one, _ in log[:-1]
    ] == [one for one, _ in signed.log[: len(log) - 1]]
    with signed.with_log(log, views), signed.saver() as saver, bounded_memory():
        for name, read in READS.items():
            for found in outcome(read, saver) or ():
                assert is_state_of(signed, found), (name, found)
        for look in LOOKS.values():
            outcome(look, saver, directory)
        accepted = outcome(saver.verify, "t")
        note(accepted)
        assert not changed or only_cut or accepted is None or not accepted.sound
        expected = {signed.sequence: signed.digest}
        accepted = outcome(lambda: saver.verify("t", expected=expected))
        assert not changed or accepted is None or not accepted.sound
        for name in ("put", "writes"):
            outcome(WRITES[name], saver, directory)
        accepted = outcome(lambda: saver.verify("t", expected=expected))
        assert not changed or accepted is None or not accepted.sound
        for write in WRITES.values():
            outcome(write, saver, directory)


def replaced(log: Sequence[Entry], at: int, flat: Sequence[bytes]) -> list[Entry]:
    """A log with other fields in an entry."""
    return [*log[:at], (log[at][0], list(flat)), *log[at + 1 :]]


def test_numbers_that_go_back(plain: Target) -> None:
    """A log whose numbers go back before damage is damaged. It was read without end, in the search for what was pruned."""
    log = replaced(plain.log, 2, [b"n", b"50", *plain.log[2][1][2:]])
    log = replaced(log, len(log) - 2, [b"k", b"?"])
    with plain.with_log(log, "kept"), plain.saver() as saver:
        for look in (lambda: saver.get_tuple_as_of(config("t"), 9), lambda: list(saver.replay("t"))):
            with pytest.raises(CorruptEntry, match="'t'"):
                look()


@pytest.mark.parametrize("number", [b"checkpoint", b"9" * 5000])
def test_a_digest_in_another_place(plain: Target, number: bytes) -> None:
    """An entry that does not begin with number and digest does not follow its predecessor."""
    flat = plain.log[-1][1]
    log = replaced(plain.log, len(plain.log) - 1, [b"k", number, *flat])
    with plain.with_log(log, "kept"), plain.saver() as saver, pytest.raises(CorruptEntry, match="'t'"):
        list(saver.replay("t"))


def test_another_event_in_the_place_of_writes(signed: Target) -> None:
    """A signed event that stands where an index says that writes are is not read as writes."""
    at = max(at for at, (_, flat) in enumerate(signed.log) if flat[5] == b"writes")
    log = replaced(signed.log, at, signed.log[at - 1][1])
    with signed.with_log(log, "kept"), signed.saver() as saver, pytest.raises(SignatureInvalid, match="'t'"):
        states(saver)
