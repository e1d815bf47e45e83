"""Refused options, effects and records of the feed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventlog import CorruptEntry, InvalidArgument, Limits, OverLimit
from eventlog.codec import encode
from eventlog.feed.effects import MOST_ARGUMENTS, effect_of
from eventlog.feed.failures import Failure
from eventlog.feed.options import attempts_of, batch_of, name_of, seconds_of
from eventlog.feed.registration import decoded


@pytest.mark.parametrize(
    ("check", "given", "kind"),
    [
        (batch_of, "10", TypeError),
        (batch_of, True, TypeError),
        (batch_of, 0, InvalidArgument),
        (attempts_of, "1", InvalidArgument),
        (lambda given: seconds_of("lease", given), "1", TypeError),
        (lambda given: seconds_of("lease", given), False, TypeError),
        (lambda given: seconds_of("lease", given), 10**9, InvalidArgument),
        (lambda given: name_of("group", given, Limits()), b"g", TypeError),
        (lambda given: name_of("group", given, Limits()), "g" * 65_537, OverLimit),
    ],
)
def test_refused_options(check: Callable[[Any], object], given: Any, kind: type[Exception]) -> None:
    """An option of the wrong type or size is refused."""
    with pytest.raises(kind):
        check(given)


def test_refused_effects() -> None:
    """An effect has a limited number of arguments, which are bytes, texts and numbers."""
    with pytest.raises(InvalidArgument, match="use several effects"):
        effect_of("SADD", b"k", [1] * (MOST_ARGUMENTS + 1))
    for argument in (True, None, [1]):
        with pytest.raises(TypeError, match=type(argument).__name__):
            effect_of("SET", b"k", [argument])
    with pytest.raises(InvalidArgument, match="not valid Unicode"):
        effect_of("SET", b"k", ["\ud800"])
    assert effect_of("zadd", b"k", [0.5, "m"]) == ("ZADD", b"k", ["0.5", "m"])


@pytest.mark.parametrize("record", [b"", encode([1]), encode({"filters": 1}), encode({"filters": {}, "v": 2})])
def test_a_foreign_registration(record: bytes) -> None:
    """The record of a group that another program or a newer version wrote is an error that names the group."""
    with pytest.raises(CorruptEntry, match="record of group 'g'"):
        decoded("g", record)


@pytest.mark.parametrize("record", [b"", encode([1]), encode({"unknown": 1})])
def test_a_foreign_failure(record: bytes) -> None:
    """The record of a failure that another program wrote is an error that names group and thread."""
    with pytest.raises(CorruptEntry, match=r"Group 'g': .*thread 't'"):
        Failure.decode("g", b"t", record)
