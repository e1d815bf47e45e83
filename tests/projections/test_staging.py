"""The script that folds a page of a log, called directly: it and the fold in Python give the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog import Keyspace
from eventlog.flow import Begin, Call
from eventlog.keys import checkpoint_sort_key
from projections.log.fold import Fold, Index
from projections.log.staging import STAGED_FOR, StagedIndex, staged_keys
from tests.servers import Server, connect

CHECKPOINTS = [checkpoint_sort_key(namespace, name) for namespace in (b"", b"sub") for name in (b"a", b"ab", b"b")]
changes = st.tuples(st.sampled_from(b"cdhhc"), st.sampled_from(CHECKPOINTS))
pages = st.lists(st.lists(changes, max_size=12), min_size=1, max_size=4)
relaxed = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Staged:
    """A staged index on the server, and the same index in Python."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.keys = staged_keys(Keyspace("t" + uuid.uuid4().hex[:8], 1).thread(b"t"), b"index", b"order")
        self.staged = StagedIndex(keys=self.keys)
        self.index = Index()
        self.call: Call | None = None

    def step(self) -> bytes:
        """Adds an entry without contents; its id."""
        for fold in (self.staged, self.index):
            fold.sequence, fold.entries = fold.sequence + 1, fold.entries + 1
            fold.last, fold.digest = b"%d-0" % fold.sequence, b"digest %d" % fold.sequence
        return self.index.last

    def both(self) -> tuple[Fold, Fold]:
        """The folds to be fed."""
        return self.staged, self.index

    def again(self) -> int:
        """Sends the last page, and returns the reply."""
        assert self.call is not None
        reply: int = self.client.eval(self.call.script.source, 2, *self.call.keys, *self.call.arguments)
        return reply

    def flush(self) -> int:
        """Sends a page, and returns the reply."""
        request: Any = next(self.staged.flush())
        assert isinstance(request, Begin)
        self.call = request.call
        self.staged._new_values, self.staged._new_members, self.staged._new_changes = {}, [], []
        self.staged._flushed = self.staged.last
        return self.again()

    def check(self) -> None:
        """The server has the index and the order of the fold in Python, for a limited time."""
        assert self.client.hgetall(self.keys[0]) == self.index.hash()
        assert set(self.client.zrange(self.keys[1], 0, -1)) == set(self.index.members())
        for key in self.keys:
            assert 0 < self.client.ttl(key) <= STAGED_FOR


@pytest.fixture
def client(any_server: Server) -> Iterator[Any]:
    """A raw client of the quick server."""
    opened = connect(any_server.url)
    yield opened
    opened.close()


@relaxed
@given(pages)
def test_pages_are_folded_as_in_python(client: Any, pages: list[list[tuple[int, bytes]]]) -> None:
    """Whatever happens to checkpoints, page by page, the server has the same index and order."""
    one = Staged(client)
    for page in pages:
        entry_id = one.step()
        for number, (letter, sort_key) in enumerate(page):
            for fold in one.both():
                fold.change(bytes([letter]), sort_key, entry_id if letter == ord("c") else b"")
                fold.write(sort_key, b"task", entry_id + b"%d" % number)
                fold.locate(b"v%d" % number, entry_id)
        assert one.flush() == len(one.index.checkpoints)
        one.check()
    client.unlink(*one.keys)


@pytest.mark.parametrize("count", [0, 1, 498, 499, 500, 501, 999, 1000, 1001, 4500])
def test_pages_of_any_size(client: Any, count: int) -> None:
    """More values and members than a command takes are written in several; the page again changes nothing."""
    one = Staged(client)
    for _ in range(2):
        entry_id = one.step()
        for fold in one.both():
            for number in range(count):
                fold.locate(b"v%d" % number, entry_id)
                fold.write(CHECKPOINTS[0], b"task", b"%d-%d" % (number, one.index.sequence))
            fold.change(b"c", CHECKPOINTS[1], entry_id)
        for reply in (one.flush(), one.again()):
            assert reply == 1
            one.check()


@pytest.mark.parametrize(
    "lost", [(0, 1), (0,), (1,)], ids=["both expired", "the index expired", "the order expired"]
)  # fmt: skip
def test_staged_keys_that_expired(client: Any, lost: tuple[int, ...]) -> None:
    """The next page is refused, and nothing is staged of it."""
    one = Staged(client)
    one.step()
    assert one.flush() == 0
    client.delete(*(one.keys[number] for number in lost))
    left = [client.exists(key) for key in one.keys]
    one.step()
    assert one.flush() == -1
    assert [client.exists(key) for key in one.keys] == left


def test_a_page_out_of_turn(client: Any) -> None:
    """A page that does not follow the last one is refused."""
    one = Staged(client)
    for _ in range(2):
        one.step()
        one.flush()
    one.step()
    one.staged._flushed = b"1-0"
    assert one.flush() == -1
    assert client.hget(one.keys[0], "l") == b"2-0"
