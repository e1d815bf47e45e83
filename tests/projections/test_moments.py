"""The parser of moments: every form that callers and users write, and the error for all others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

import pytest

from eventlog.errors import InvalidArgument
from eventlog.events import Recorded, WritesSaved
from projections.time_travel.moment import FORMS, Moment, duration_of, moment_of, parsed_time, time_of

NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
NOW_MS = int(NOW.timestamp() * 1000)
ENTRY = f"{NOW_MS}-0"


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local zone that is not UTC."""
    import time

    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


class ZoneWithoutOffset(tzinfo):
    """A zone that leaves its datetimes naive."""

    def utcoffset(self, dt: datetime | None) -> None:
        """None, as for a naive datetime."""
        return

    tzname = dst = utcoffset


def place(moment: Moment) -> tuple[Any, ...]:
    return moment.ms, moment.sequence, moment.entry_id


@pytest.mark.parametrize("zone", ["written", "utc", "local"])
@pytest.mark.parametrize(
    ("when", "expected"),
    [
        (17, (None, 17, None)),
        (0, (None, 0, None)),
        ("17", (None, 17, None)),
        ("@17", (None, 17, None)),
        (ENTRY, (NOW_MS, None, ENTRY.encode())),
        (ENTRY.encode(), (NOW_MS, None, ENTRY.encode())),
        ("1-0", (1, None, b"1-0")),
        (NOW, (NOW_MS, None, None)),
        (NOW.astimezone(timezone(timedelta(hours=5))), (NOW_MS, None, None)),
        ("2026-01-31T12:00:00Z", (NOW_MS, None, None)),
        ("2026-01-31T12:00:00z", (NOW_MS, None, None)),
        ("2026-01-31T13:00:00.000+01:00", (NOW_MS, None, None)),
        ("30m", (NOW_MS - 30 * 60_000, None, None)),
        ("1h30m", (NOW_MS - 90 * 60_000, None, None)),
        ("0.5s", (NOW_MS - 500, None, None)),
    ],
)
def test_each_form_is_read_alike_everywhere(when: Any, expected: tuple[Any, ...], zone: Any) -> None:
    """Sequence numbers, entry ids, datetimes, ISO texts with a zone and durations, whatever zone holds for others."""
    assert place(moment_of(when, zone=zone, now=NOW)) == expected


def test_a_time_without_a_zone_needs_one_that_holds(berlin: None) -> None:
    """Refused in code; in UTC or the local zone where that was chosen; days are their beginning."""
    for naive in ("2026-01-31T12:00:00", "2026-01-31"):
        with pytest.raises(InvalidArgument, match=r"Thread 't': until .* has no time zone; write it as"):
            moment_of(naive, "until", thread="t")
    with pytest.raises(InvalidArgument, match=r"Thread 't': until .* has no time zone; pass"):
        moment_of(NOW.replace(tzinfo=None), "until", thread="t")
    with pytest.raises(InvalidArgument, match=r"Thread 't': until .* has no time zone; pass"):
        moment_of(NOW.replace(tzinfo=ZoneWithoutOffset()), "until", thread="t")
    assert moment_of("2026-01-31T12:00:00", zone="utc").ms == NOW_MS
    assert moment_of("2026-01-31", zone="utc").ms == NOW_MS - 12 * 3_600_000
    assert moment_of("2026-01-31T13:00:00", zone="local").ms == NOW_MS


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "latest",
        "5-1",
        "-5",
        "@",
        "@x",
        "1-",
        "9" * 18,
        "٣",
        "30x",
        "0s",
        "99999999w",
        "2026-13-01",
        b"\xff",
        "2026-01-31T12:00:00Z\0",
    ],
)
def test_any_other_text_is_one_error(bad: str | bytes) -> None:
    """The error names the thread, the field, and the accepted forms."""
    with pytest.raises(InvalidArgument) as found:
        moment_of(bad, "since", thread="42")
    assert str(found.value).startswith("Thread '42': since ")
    assert FORMS in str(found.value)


@pytest.mark.parametrize("wrong", [True, 1.5, None, ["1-0"], timedelta(minutes=3)])
def test_a_wrong_type_is_a_type_error(wrong: Any) -> None:
    """The error names the thread, the field, and the accepted forms."""
    with pytest.raises(TypeError, match=r"Thread '42': until must be .* Pass a time such as"):
        moment_of(wrong, "until", thread="42")


@pytest.mark.parametrize(
    ("text", "only", "name"),
    [
        ("1f0c8a2e", True, "1f0c8a2e"),
        ("", True, ""),
        ("17", False, "17"),
        ("7d", False, "7d"),
        ("2026-01-31", False, "2026-01-31"),
        (ENTRY, False, ENTRY),
        ("@17", False, None),
    ],
)
def test_checkpoint_ids_where_they_are_accepted(text: str, only: bool, name: str | None) -> None:
    """A text may be the beginning of an id, also where it is another form; `@17` is a sequence number alone."""
    moment = moment_of(text, zone="utc", checkpoints=True)
    assert (moment.is_checkpoint, moment.checkpoint) == (only, name)
    assert moment_of("@17").checkpoint is moment_of(17).checkpoint is None


def recorded(sequence: int, ms: int) -> Recorded:
    return Recorded(b"%d-0" % ms, sequence, b"", WritesSaved("", "c", "task", "", ()))


def test_a_moment_covers_its_own_event() -> None:
    """The named event and those before it; `before` leaves it out; a checkpoint id alone covers none."""
    own, later = recorded(3, NOW_MS), recorded(4, NOW_MS + 1)
    for when in (3, "3", ENTRY, NOW):
        moment = moment_of(when)
        assert (moment.covers(own), moment.covers(later), moment.before().covers(own)) == (True, False, False)
        assert moment_of(moment) is moment
    assert not moment_of("1f0c", checkpoints=True).covers(own)


def test_durations_and_times_alone() -> None:
    """Options that take only a time, or only a duration, read these in the same way."""
    assert duration_of("1w2d") == timedelta(days=9)
    assert parsed_time("7d", "utc", NOW) == NOW - timedelta(days=7)
    assert parsed_time("@17", "utc") is parsed_time("soon", "local") is None
    assert time_of(ENTRY.encode()) == NOW
    for bad in ("7", "d", "7 d", "0s", "9" * 9 + "w" + "9" * 9 + "w"):
        with pytest.raises(InvalidArgument):
            duration_of(bad)
