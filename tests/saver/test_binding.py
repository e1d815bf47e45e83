"""Encrypted values are bound to their form, so that a caller's bytes cannot be marked as an object."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from eventlog.errors import ValueUnreadable
from saver import RedisStreamSaver
from saver.binding import FormMismatch, bound
from saver.serializer import StrictSerializer
from tests.saver.drivers import Call
from tests.saver.threads import config, step, values_of
from tests.servers import Server

KEY = "0123456789abcdef"
OBJECT = StrictSerializer().dumps_typed({"approved": True})[1]
"""Bytes that a caller chose: as msgpack they are an object."""
FORMS = ("msgpack", "json", "bytes", "bytearray", "null", "pickle", "")


class Relabelling(EncryptedSerializer):
    """The serializer of a person who can write to Redis, and stores encrypted bytes that are there under another mark."""

    def __init__(self, mark: str, data: bytes) -> None:
        cipher = langgraphs().cipher
        super().__init__(cipher, StrictSerializer())
        self.mark = mark
        self.data = data

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Returns what is to stand in Redis."""
        return (self.mark, self.data) if obj == "FORGED" else bound(langgraphs()).dumps_typed(obj)


def langgraphs() -> EncryptedSerializer:
    return EncryptedSerializer.from_pycryptodome_aes(StrictSerializer(), key=KEY.encode())


@pytest.mark.parametrize("value", [None, b"", b"x", bytearray(b"y"), {"a": [1]}, "text", OBJECT])
def test_what_was_encrypted_comes_back(value: Any) -> None:
    """Under the mark of this package, and under LangGraph's."""
    form, data = bound(langgraphs()).dumps_typed(value)
    plain_form = StrictSerializer().dumps_typed(value)[0]
    assert form == f"{plain_form}+bound+aes"
    assert bound(langgraphs()).loads_typed((form, data)) == value
    assert bound(langgraphs()).loads_typed(langgraphs().dumps_typed(value)) == value
    assert bound(langgraphs()).loads_typed(StrictSerializer().dumps_typed(value)) == value


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("mark", ["+bound+aes", "+aes", "+aes+bound+aes", "+bound+bound+aes", "+bound+aes+aes"])
def test_no_other_mark_reads_a_bound_value(form: str, mark: str) -> None:
    """Neither another form under the same mark, nor any form under LangGraph's, nor a doubled mark."""
    written, data = bound(langgraphs()).dumps_typed(OBJECT)
    if form + mark != written:
        with pytest.raises((FormMismatch, AssertionError)):  # LangGraph's cipher asserts its own name
            bound(langgraphs()).loads_typed((form + mark, data))


@given(st.binary(max_size=40))
def test_bytes_of_a_caller_are_no_object(chosen: bytes) -> None:
    """Not even where a caller imitates the start of a bound text."""
    for one in (chosen, b"\xc1form:msgpack\0" + chosen):
        _, data = bound(langgraphs()).dumps_typed(one)
        for mark in ("msgpack+bound+aes", "msgpack+aes", "json+aes"):
            with pytest.raises(FormMismatch):
                bound(langgraphs()).loads_typed((mark, data))


def test_other_serializers_stay_as_they_are() -> None:
    """Those that encrypt in their own way, and those that do not encrypt."""
    for serde in (StrictSerializer(), Relabelling("", b""), bound(langgraphs())):
        assert bound(serde) is serde


async def test_a_saver_refuses_relabelled_bytes(any_server: Server, prefix: str, call: Call) -> None:
    """It names the thread and the channel, and what LangGraph's serializer wrote before is read as before."""
    _, stored = bound(langgraphs()).dumps_typed(OBJECT)
    marks = {"forged": ("msgpack+bound+aes", stored), "old mark": ("msgpack+aes", stored)}
    marks["old"] = langgraphs().dumps_typed({"kept": 1})
    for thread, (mark, data) in marks.items():
        with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=Relabelling(mark, data)) as writer:
            writer.put(config(thread), *step({"x": "FORGED"}))
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=langgraphs()) as saver:
        assert values_of(await call(saver, "get_tuple", config("old"))) == {"x": {"kept": 1}}
        for thread in ("forged", "old mark"):
            with pytest.raises(ValueUnreadable, match=f"thread '{thread}'.*'x'.*another form.*restore the log"):
                await call(saver, "get_tuple", config(thread))
        await call(saver, "put", config("t"), *step({"x": OBJECT}))
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": OBJECT}


async def test_a_value_can_be_moved(any_server: Server, prefix: str, call: Call) -> None:
    """Encryption does not bind a value to its place, as SECURITY.md says."""
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=langgraphs()) as saver:
        moved = Relabelling(*bound(langgraphs()).dumps_typed({"of": "another thread"}))
        with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix, serde=moved) as writer:
            writer.put(config("t"), *step({"x": "FORGED"}))
        assert values_of(await call(saver, "get_tuple", config("t"))) == {"x": {"of": "another thread"}}


@pytest.mark.parametrize("chosen", [OBJECT, b"\xc1form:msgpack\0" + OBJECT])
def test_bytes_that_others_encrypted_can_be_relabelled(chosen: bytes) -> None:
    """Where the same key encrypted them without a format, as SECURITY.md says: they have no mark to compare."""
    _, data = langgraphs().dumps_typed(chosen)
    mark = "msgpack+aes" if chosen is OBJECT else "msgpack+bound+aes"
    assert bound(langgraphs()).loads_typed((mark, data)) == {"approved": True}
