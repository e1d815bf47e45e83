"""Names: encodings keep order, end themselves, and cannot be mistaken for each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventlog.errors import InvalidArgument
from eventlog.framing import counted, ordered, split_counted, unordered
from eventlog.keys import Keyspace, checkpoint_sort_key, split_sort_key, split_value_name, value_name, version_key

ids = st.text(st.sampled_from("\0\x01a:*{}\U0001f600é"), max_size=6) | st.text(max_size=12)


@given(ids, ids)
def test_ordered_sorts_as_text_does(one: str, other: str) -> None:
    """Bytes compare as the texts do, NUL and prefixes included."""
    assert (one < other) == (ordered(one.encode()) < ordered(other.encode()))


@given(ids, ids)
@example("\0", "a")
@example("\0\0", "")
def test_ordered_ends_itself(one: str, rest: str) -> None:
    """The bytes after an ordered part are separated from it."""
    following = rest.encode().replace(b"\xff", b"") + b"1"
    assert (one.encode(), following) == unordered(ordered(one.encode()) + following)


@given(st.lists(ids.map(str.encode), max_size=5))
def test_counted_parts_come_back(parts: list[bytes]) -> None:
    """Bytes that consist of counted parts are split into the same parts."""
    assert split_counted(b"".join(map(counted, parts))) == parts


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [(b":a", "no length"), (b"-1:a", "no length"), (b"2:a", "shorter"), (b"1:a2:b", "shorter"), (b"1", "not found")],
)
def test_other_bytes_are_no_counted_parts(wrong: bytes, problem: str) -> None:
    """A length that is missing, or that leads past the end, is an error."""
    with pytest.raises(ValueError, match=problem):
        split_counted(wrong)


@given(ids, ids)
def test_sort_keys_come_back(namespace: str, checkpoint_id: str) -> None:
    """A sort key and its entry id are split as they were joined."""
    sort_key = checkpoint_sort_key(namespace.encode(), checkpoint_id.encode())
    assert (namespace, checkpoint_id, b"17-0") == split_sort_key(sort_key + b"17-0")


@given(ids, ids)
def test_value_names_come_back(channel: str, version: str) -> None:
    """A channel and a version are split as they were joined."""
    assert (channel.encode(), version.encode()) == split_value_name(value_name(channel.encode(), version.encode()))


@given(ids, ids, ids, ids)
def test_heads_do_not_collide(thread: str, namespace: str, other: str, other_namespace: str) -> None:
    """Two (thread, namespace) share a key only if they are the same."""
    space = Keyspace("p", 1)
    one = space.thread(thread.encode()).head(namespace.encode())
    two = space.thread(other.encode()).head(other_namespace.encode())
    assert ((thread, namespace) == (other, other_namespace)) == (one == two)


@pytest.mark.parametrize(("one", "other", "equal"), [(1, 1.0, True), (1, "1", False), (1.5, 1.5, True), (2, 10, False)])
def test_version_keys_are_equal_if_versions_are(one: Any, other: Any, *, equal: bool) -> None:
    """1 and 1.0 are one version, "1" is another."""
    assert equal == (version_key(one) == version_key(other))


def test_all_keys_of_a_thread_share_a_hash_tag() -> None:
    """Braces in an id do not move a key to another slot."""
    keys = Keyspace("p", 16).thread(b"{x}:}")
    tags = {
        key[key.index(b"{") : key.index(b"}") + 1] for key in (keys.log, keys.index, keys.order, keys.head(b"{ns}"))
    }
    assert tags == {keys.shared.feed[: keys.shared.feed.index(b"}") + 1]}


@pytest.mark.parametrize(
    "prefix", ["", "\ud800", *(f"a{one}b" for one in ":{}*?[]\\^ \t\n\r\x00\x7f\u00a0\u202e\u2028")]
)
def test_impossible_prefixes_are_refused(prefix: str) -> None:
    """A prefix that changes the hash tag, or that is a pattern in access rights, is refused with the remedy."""
    with pytest.raises(InvalidArgument, match="prefix.* Pass|prefix.*; pass") as caught:
        Keyspace(prefix, 1)
    if len(prefix) > 1:
        assert repr(prefix) in str(caught.value)
        assert "export" in str(caught.value)


@pytest.mark.parametrize("prefix", ["langgraph", "a-b_c.d", "t0", "préfixe", "a+b%c~d@e"])
def test_other_prefixes_are_taken(prefix: str) -> None:
    """Letters of any language, digits and other marks begin keys."""
    assert Keyspace(prefix, 1).meta == prefix.encode() + b":meta"


@pytest.mark.parametrize("partitions", [0, 16385])
def test_impossible_partitions_are_refused(partitions: int) -> None:
    """There are at least one and at most as many partitions as slots."""
    with pytest.raises(InvalidArgument, match="partitions"):
        Keyspace("p", partitions)
