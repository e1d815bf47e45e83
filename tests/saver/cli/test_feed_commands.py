"""The commands of the feed print what the API returns, and their exit codes."""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from eventlog import Activity, Lag, Parked
from saver.cli.lag import lag_object
from tests.saver.cli.commands import STEERING, Agentlog, park, put
from tests.servers import Server

ESCAPED = r"a\x1b[31mred\x07[bold]b[/bold]\n\u202e"


def all_of(agentlog: Agentlog, **wanted: Any) -> list[Activity]:
    with agentlog.feed() as feed:
        return list(feed.tail("beginning", follow=False, **wanted))


# tail


def test_tail_prints_what_there_is_as_json(everywhere: Agentlog) -> None:
    """On every server: each activity with its position."""
    put(everywhere.url, everywhere.prefix, "1", "2", STEERING, count=3)
    done = everywhere("tail", "--json")
    assert (done.code, done.err) == (0, "")
    expected = [{**one.as_dict(), "position": str(one.position)} for one in all_of(everywhere)]
    assert done.objects == expected
    assert len(expected) == 18


def test_tail_prints_a_line_for_each_activity(agentlog: Agentlog) -> None:
    """Columns steer no terminal, and nothing is cut where there is no terminal."""
    long = "x" * 150
    put(agentlog.url, agentlog.prefix, "1", STEERING, long)
    done = agentlog("tail")
    found = all_of(agentlog)
    assert done.out.isascii()
    assert "\x1b" not in done.out
    assert len(done.lines) == len(found) == 6
    for reported, one in zip(done.lines, found, strict=True):
        assert reported.startswith(one.as_dict()["time"])
        assert one.kind in reported
        assert {"1": "1", STEERING: ESCAPED, long: long}[one.thread_id] in reported
        assert "messages" in reported
        words = [repr(STEERING) if one.thread_id == STEERING else one.thread_id, one.kind, str(one.step)]
        assert reported.split() == [reported[:24], *words, ",".join(one.nodes) or "-", "-", "messages"]
    first, second = done.lines[:2]
    assert first.index("checkpoint") == second.index("writes")
    assert first.index("messages") == second.index("messages")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--thread", "1", "--thread", "2"], {"thread": ["1", "2"]}),
        (["--kind", "writes"], {"kinds": "writes"}),
        (
            ["--kind", "writes", "--kind", "checkpoint", "--thread", "3"],
            {"kinds": ["writes", "checkpoint"], "thread": "3"},
        ),
        (["--namespace", ""], {"namespace": ""}),
        (["--namespace", "sub"], {"namespace": "sub"}),
        (["--node", "nobody"], {"node": "nobody"}),
    ],
)
def test_tail_filters(agentlog: Agentlog, words: list[str], wanted: dict[str, Any]) -> None:
    """As the feed does."""
    put(agentlog.url, agentlog.prefix, "1", "2", "3")
    found = [one["id"] for one in agentlog("tail", "--json", *words).objects]
    assert found == [one.id for one in all_of(agentlog, **wanted)]


def test_tail_finds_the_namespaces_of_a_node(agentlog: Agentlog) -> None:
    """Whatever the ids of its tasks."""
    for ns in ("risk:1-2", "risk:3-4", "risky:5", "other|risk:6", ""):
        put(agentlog.url, agentlog.prefix, "1", ns=ns)
    found = agentlog("tail", "--json", "--namespace", "risk", "--kind", "checkpoint").objects
    assert {one["namespace"] for one in found} == {"risk:1-2", "risk:3-4"}
    assert {line.split()[5] for line in agentlog("tail", "--namespace", "risk").lines} == {"risk:1-2", "risk:3-4"}


def test_columns_of_a_pipe_stay_where_they_are(agentlog: Agentlog) -> None:
    """From where the longest thread so far has put them; what is empty is a dash."""
    put(agentlog.url, agentlog.prefix, "x" * 36, "1", "22", "333")
    lines = agentlog("tail").lines
    assert all(len(line.split()) == 7 for line in lines)
    wide = next(number for number, line in enumerate(lines) if "x" * 36 in line)
    for some in (lines[:wide], lines[wide:]):
        assert len({line.index("messages") for line in some}) <= 1


def test_tail_begins_where_it_is_told_to(agentlog: Agentlog) -> None:
    """It begins at a printed position, a time, or now, and ends after --limit."""
    put(agentlog.url, agentlog.prefix, "1", "2", count=2)
    whole = agentlog("tail", "--json").objects
    assert agentlog("tail", "--json", "--limit", "3").objects == whole[:3]
    behind = agentlog("tail", "--json", "--from", whole[2]["position"]).objects
    assert [one["id"] for one in behind] == [one["id"] for one in whole[3:]]
    for words in (["2000-01-01"], ["2000-01-01T00:00:00Z"], ["2000-01-01T00:00:00+05:00"], ["2000-01-01", "--local"]):
        assert len(agentlog("tail", "--json", "--from", *words).objects) == len(whole)
    assert agentlog("tail", "--from", (datetime.now(timezone.utc) + timedelta(days=1)).isoformat()).out == ""
    assert agentlog("tail", "--from", "now").out == ""


def test_tail_of_nothing_is_a_note(agentlog: Agentlog) -> None:
    """Nothing on stdout, no failure."""
    done = agentlog("tail")
    assert (done.code, done.out) == (0, "")
    assert agentlog.prefix in done.err


def test_times_are_local_on_demand(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """UTC with a Z else."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    import time

    time.tzset()
    try:
        put(agentlog.url, agentlog.prefix, "1")
        assert re.match(r"\S{23}Z ", agentlog("tail").out)
        local = agentlog("tail", "--local").out.split()[0]
        assert local.endswith("+05:30")
        assert datetime.fromisoformat(local) == all_of(agentlog)[0].time
        assert agentlog("tail", "--local", "--json").objects[0]["time"].endswith("Z")
        assert agentlog("tail", "--local", "--from", local[:-6]).out == agentlog("tail", "--local").out
    finally:
        monkeypatch.undo()
        time.tzset()


# groups, lag


def test_groups(agentlog: Agentlog) -> None:
    """Each with its start, filters and members; none is a note."""
    put(agentlog.url, agentlog.prefix, "1")
    nothing = agentlog("groups")
    assert (nothing.code, nothing.out) == (0, "")
    assert "No group" in nothing.err
    with agentlog.feed() as feed:
        feed.group("audit", kinds=["checkpoint", "writes"], start="now").register()
        feed.group(STEERING).register()
        feed.group("late", start=feed.now()).register()
        with feed.group("audit").member("clerk", stop_on_sigterm=False):
            shown, listed, infos = agentlog("groups"), agentlog("groups", "--json"), feed.groups()
    assert [one["name"] for one in listed.objects] == [one.name for one in infos]
    for one, info in zip(listed.objects, infos, strict=True):
        assert datetime.fromisoformat(one["created"].replace("Z", "+00:00")) == info.created
        assert {**one, "created": info.created, "members": tuple(one["members"])} == asdict(info)
    assert ESCAPED in shown.out
    assert "at a position" in shown.out
    assert re.search(r"audit +\S+Z +now +kinds: checkpoint, writes +clerk$", shown.out, re.MULTILINE)
    assert re.search(r"late +\S+Z +at a position +- +-$", shown.out, re.MULTILINE)


def same(reported: dict[str, Any], lag: Lag) -> bool:
    """Whether they agree but for what goes on with time."""
    fixed = lag_object(lag)
    ages = [(one.pop("age") is None) for some in (reported, fixed) for one in (some, *some["partitions"])]
    return reported == fixed and ages[: len(ages) // 2] == ages[len(ages) // 2 :]


def test_lag_by_partition_and_in_all(everywhere: Agentlog) -> None:
    """On every server, as the API has it."""
    put(everywhere.url, everywhere.prefix, "1", "2", "3", count=2)
    with everywhere.feed() as feed:
        group = feed.group("audit")
        group.register()
        lag = group.lag()
    done = everywhere("lag", "audit", "--json")
    assert same(done.objects[0], lag)
    assert done.objects[0]["pending"] == 12
    assert sum(one["pending"] for one in done.objects[0]["partitions"]) == 12
    shown = everywhere("lag", "audit")
    assert (shown.code, len(shown.lines)) == (0, 18)
    assert shown.lines[0].split() == [
        "partition",
        "member",
        "pending",
        "age",
        "waiting",
        "parked",
        "handled",
        "throughput",
    ]
    assert re.match(r"total +- +12 +\S+s +0 +0 +0 +0\.0/s$", shown.lines[-1])


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["--max-pending", "2"], ""),
        (["--max-pending", "1"], "2 events are pending, more than 1"),
        (["--max-age", "3600"], ""),
        (["--max-age", "0"], "longer than 0"),
        (["--fail-parked"], ""),
        (["--max-pending", "0", "--watch", "0.1"], "2 events are pending, more than 0"),
    ],
)
def test_bounds_of_lag(agentlog: Agentlog, words: list[str], reported: str) -> None:
    """An exceeded bound is reported, ends a watch, and is the exit code."""
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        feed.group("audit").register()
        import time

        time.sleep(0.01)
    done = agentlog("lag", "audit", *words)
    assert done.code == (1 if reported else 0)
    assert reported in done.err
    assert bool(reported) == bool(done.err)
    assert done.out


def test_what_waits_has_a_bound_of_its_own(agentlog: Agentlog) -> None:
    """It is not pending any more."""
    put(agentlog.url, agentlog.prefix, "1", count=3)
    with agentlog.feed() as feed:
        lag = park(feed, "audit", "1").lag()
    assert lag.waiting
    reported = f"{lag.waiting} events failed, or wait after one that did, more than {lag.waiting - 1}"
    done = agentlog("lag", "audit", "--max-waiting", str(lag.waiting - 1))
    assert (done.code, done.err) == (1, f"agentlog: group 'audit': {reported}\n")
    assert agentlog("lag", "audit", "--max-waiting", str(lag.waiting)).code == 0
    assert agentlog("lag", "audit", "--max-pending", str(lag.pending), "--max-age", "3600").code == 0


def test_lag_fails_for_what_is_parked(agentlog: Agentlog) -> None:
    """Only where asked to."""
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        park(feed, "audit", "1")
    assert agentlog("lag", "audit").code == 0
    assert agentlog("lag", "audit", "--fail-parked").code == 1


# parked, retry, skip


@pytest.fixture
def with_parked(agentlog: Agentlog) -> Agentlog:
    put(agentlog.url, agentlog.prefix, "1", "2", STEERING)
    with agentlog.feed() as feed:
        park(feed, "audit", "1", "2", STEERING)
    return agentlog


def parked_in(agentlog: Agentlog) -> list[Parked]:
    with agentlog.feed() as feed:
        return feed.group("audit").parked()


def test_parked(with_parked: Agentlog) -> None:
    """With errors, and with tracebacks on demand; harmless to a terminal."""
    found = parked_in(with_parked)
    listed = with_parked("parked", "audit", "--json").objects
    assert len(found) == 3
    for one, parked in zip(listed, found, strict=True):
        assert one.pop("since") == parked.since.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        assert one.pop("activity") == parked.activity.as_dict()
        assert one == {name: getattr(parked, name) for name in one}
        assert "Traceback" in one["traceback"]
    shown, whole = with_parked("parked", "audit"), with_parked("parked", "audit", "--traceback")
    assert len(shown.lines) == 4
    assert "Traceback" not in shown.out
    assert whole.out.count("Traceback") == 3
    assert whole.out.count("attempts") == 1
    for text in (shown.out, whole.out):
        assert ESCAPED in text
        assert not set("\x1b\x07\u202e") & set(text)


def test_nothing_parked_is_a_note(agentlog: Agentlog) -> None:
    """And no failure."""
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        feed.group("audit").register()
    done = agentlog("parked", "audit")
    assert (done.code, done.out) == (0, "")
    assert "Nothing is parked" in done.err
    assert agentlog("parked", "audit", "--json").err == ""


@pytest.mark.parametrize(("name", "more", "what"), [("retry", [], "retried"), ("skip", ["--yes"], "skipped")])
def test_retry_and_skip(with_parked: Agentlog, name: str, more: list[str], what: str) -> None:
    """One thread, all others, and none; a thread without parked events is exit code 1."""
    one = with_parked(name, "audit", "--thread", STEERING, *more)
    assert (one.code, one.out, one.err) == (0, f"1 {what}.\n", "")
    assert {parked.thread_id for parked in parked_in(with_parked)} == {"1", "2"}
    again = with_parked(name, "audit", "--thread", "nobody", "--thread", "1", "--json", *more)
    assert (again.code, again.objects) == (1, [{"group": "audit", what: 1}])
    assert "'nobody'" in again.err
    assert with_parked(name, "audit", "--all", *more).out == f"1 {what}.\n"
    assert with_parked(name, "audit", "--all", *more).out == f"0 {what}.\n"
    assert parked_in(with_parked) == []


@pytest.mark.parametrize("words", [["skip", "audit", "--all"], ["skip", "audit", "--thread", "1"], ["drop", "audit"]])
def test_nothing_is_given_up_unasked(with_parked: Agentlog, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal to ask at, --yes is needed."""
    monkeypatch.setattr("sys.stdin", None)
    done = with_parked(*words)
    assert (done.code, done.out) == (2, "")
    assert "--yes" in done.err
    assert len(parked_in(with_parked)) == 3


# trim, drop


def test_trim(everywhere: Agentlog) -> None:
    """On every server it shows removed entries, and the groups that hold entries back."""
    put(everywhere.url, everywhere.prefix, "1", "2", count=5)
    assert everywhere("trim", "--age", "1d").out.startswith("0 ")
    with everywhere.feed() as feed:
        feed.group("audit").register()
    held = everywhere("trim", "--count", "0", "--json")
    assert (held.code, held.objects[0]["entries"]) == (0, 0)
    assert sum(one["entries"] for one in held.objects[0]["held_back"]) == 20
    assert {one["group"] for one in held.objects[0]["held_back"]} == {"audit"}
    shown = everywhere("trim", "--count", "0", "--fail-held-back")
    assert shown.code == 1
    assert re.search(r"^audit +20 +\S+s$", shown.out, re.MULTILINE)
    assert everywhere("drop", "audit", "--yes").code == 0
    done = everywhere("trim", "--count", "0", "--age", "1h30m", "--fail-held-back", "--json")
    assert (done.code, done.objects) == (0, [{"entries": 20, "held_back": []}])
    assert all_of(everywhere) == []


def test_drop(with_parked: Agentlog) -> None:
    """For good; what is not there cannot be dropped."""
    done = with_parked("drop", "audit", "--yes", "--json")
    assert (done.code, done.objects) == (0, [{"dropped": "audit"}])
    assert with_parked("groups").out == ""
    assert with_parked("drop", "audit", "--yes").code == 2


# input


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nix"],
        ["tail", "--nix"],
        ["tail", "extra"],
        ["tail", "--kind", "nix"],
        ["tail", "--from", "yesterday"],
        ["tail", "--from", "99:1-1"],
        ["tail", "--from", "0001-01-01T00:00:00+05:00"],
        ["tail", "--limit", "0"],
        ["tail", "--limit", "many"],
        ["lag"],
        ["lag", ""],
        ["lag", "nobody"],
        ["lag", "nobody", "--watch"],
        ["lag", "nobody", "--watch", "0"],
        ["lag", "--watch"],
        ["lag", "nobody", "--watch", "abc"],
        ["lag", "nobody", "--watch", "1e300"],
        ["lag", "nobody", "--watch=nan"],
        ["lag", "nobody", "--max-pending", "-1"],
        ["lag", "nobody", "--max-waiting", "x"],
        ["lag", "nobody", "--max-age", "x"],
        ["parked", "nobody"],
        ["retry", "nobody", "--all"],
        ["retry", "audit"],
        ["retry", "audit", "--all", "--thread", "1"],
        ["retry", "audit", "--thread", "\udcff"],
        ["skip", "nobody", "--all", "--yes"],
        ["skip", "audit", "--yes"],
        ["drop", "nobody"],
        ["drop", "nobody", "--yes"],
        ["trim"],
        ["trim", "--age", "7"],
        ["trim", "--age", "7days"],
        ["trim", "--age", "0s"],
        ["trim", "--age", "999999999w"],
        ["trim", "--count", "-1"],
    ],
)
def test_bad_input_is_one_line(agentlog: Agentlog, words: list[str]) -> None:
    """On stderr, and exit code 2."""
    put(agentlog.url, agentlog.prefix, "1")
    done = agentlog(*words) if words else Agentlog.__call__(agentlog)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("agentlog: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["lag"], "Missing argument 'GROUP'. Try: agentlog lag --help"),
        (["lag", "audit", "--watch", "abc"], "abc"),
        (["lag", "audit", "--watch=abc"], "Invalid value for '--watch': "),
        (["lag", "audit", "--watch=nan"], "Invalid value for '--watch': "),
        (["lag", "audit", "--max-waiting", "many"], "Invalid value for '--max-waiting': "),
        (["tail", "--limit", "0"], "Invalid value for '--limit': "),
        (["tial"], "No such command 'tial'. Did you mean 'tail'? Try: agentlog --help"),
        (["trim", "--age", "0s"], "'0s' is no time at all; write a millisecond (0.001s) or more."),
    ],
)
def test_bad_input_is_named(agentlog: Agentlog, words: list[str], reported: str) -> None:
    """An error names the argument that is wrong, or the word that is too many."""
    done = agentlog(*words)
    assert (done.code, reported in done.err) == (2, True), done.err


@pytest.mark.parametrize("words", [["lag"], ["parked"], ["retry", "--all"], ["skip", "--all"], ["drop", "--yes"]])
def test_a_group_that_is_not_there(agentlog: Agentlog, words: list[str]) -> None:
    """What lists those that are is a command."""
    put(agentlog.url, agentlog.prefix, "1")
    reported = f"There is no group 'nobody' under prefix {agentlog.prefix!r}; see agentlog groups."
    assert agentlog(*words, "nobody").err == f"agentlog: {reported}\n"


def test_a_watch_may_stand_before_the_group(agentlog: Agentlog) -> None:
    """Without its number."""
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        feed.group("audit").register()
    assert agentlog("lag", "--watch", "audit", "--max-pending", "0").code == 1


def test_large_numbers(agentlog: Agentlog) -> None:
    """Are as good as none."""
    put(agentlog.url, agentlog.prefix, "1")
    assert len(agentlog("tail", "--limit", "9" * 30).lines) == 2
    assert agentlog("trim", "--count", "9" * 30).out.startswith("0 ")


@pytest.mark.parametrize("name", ["lag", "parked", "retry", "skip", "drop"])
def test_help_names_the_group_plainly(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without braces and types."""
    from saver.cli import main

    assert main([name, "--help"]) == 0
    reported = capsys.readouterr().out
    assert f"agentlog {name} [OPTIONS] GROUP\n" in reported
    assert not re.search(r"\{|<str>|\[required\]", reported)


@pytest.mark.parametrize(
    "url",
    ["nix", "http://host", "redis://host:nix", "redis://host/nix", "redis+sentinel://host", "rediss+cluster://a,b:x"],
)
def test_bad_urls(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2."""
    from saver.cli import main

    assert main(["groups", "--url", url]) == 2
    assert capsys.readouterr().err.startswith("agentlog: ")


def test_no_url(capsys: pytest.CaptureFixture[str]) -> None:
    """The error names both ways to pass a URL."""
    from saver.cli import main

    assert main(["groups"]) == 2
    reported = capsys.readouterr().err
    assert "--url" in reported
    assert "REDIS_URL" in reported


@pytest.mark.server
def test_a_server_that_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 3, also for one who would follow, and in reasonable time."""
    from saver.cli import main

    for words in (["groups"], ["tail", "--follow"]):
        assert main([*words, "--url", "unix:///nowhere/at/all?password=opensesame"]) == 3
        reported = capsys.readouterr().err
        assert reported.startswith("agentlog: ")
        assert "opensesame" not in reported
        assert reported.count("\n") == 1


def test_options_stand_anywhere_and_in_the_environment(
    agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Behind the command they win over before it, and both over the environment."""
    from saver.cli import main

    put(agentlog.url, agentlog.prefix, "1")
    monkeypatch.setenv("REDIS_URL", agentlog.url)
    monkeypatch.setenv("AGENTLOG_PREFIX", agentlog.prefix)
    assert main(["--json", "tail"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    for words in (["--prefix", "other", "tail"], ["--prefix", agentlog.prefix, "tail", "--prefix", "other"]):
        assert main(words) == 0
        assert "'other'" in capsys.readouterr().err
    monkeypatch.setenv("REDIS_URL", "redis://:secret@nowhere.invalid")
    assert main(["--url", agentlog.url, "tail", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:opensesame@host:nix",
        "redis://opensesame@host@x:1/y",
        "redis://user:open/sesame@host",
        "redis+cluster://:opensesame@host:99999",
        "redis+sentinel://:opensesame@host",
    ],
)
def test_passwords_are_never_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is wrong with the URL, and wherever it stands."""
    from saver.cli import main

    for words in (
        ["groups", "--url", url],
        ["groups", url],
        [url],
        ["groups", "--limit", url],
        ["lag", "g", "--watch", url],
    ):
        assert main(words) == 2
        reported = capsys.readouterr()
        assert not re.search("open|sesame", reported.err + reported.out)


def test_a_file_has_the_url(agentlog: Agentlog, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before or after the command, over the environment and over --url in the same place; a later --url wins."""
    from saver.cli import main

    put(agentlog.url, agentlog.prefix, "1")
    file = tmp_path / "url"
    file.write_text(f"\n {agentlog.url}\n")
    words = ["--prefix", agentlog.prefix, "--json"]
    bad = ["--url", "redis://:opensesame@nowhere.invalid"]
    named = ["--url-file", str(file)]
    for given in (
        ["tail", *named],
        [*named, "tail"],
        [*bad, *named, "tail"],
        [*bad, "tail", *named],
        ["tail", *bad, *named],
    ):
        assert main([*given, *words]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 2
    assert main([*named, "tail", *words, "--url", "nonsense"]) == 2
    assert "no known scheme" in capsys.readouterr().err


@pytest.mark.parametrize(
    "contents", [None, b"", b"\n", b"open sesame", b"open\nsesame", b"\xffopensesame", b"opensesame" * 9999]
)
@pytest.mark.parametrize("words", [["groups", "--url-file"], ["migrate", "--url", "redis://x", "--from-file"]])
def test_a_file_without_a_url(
    words: list[str], contents: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is bad input, whose contents are not shown."""
    from saver.cli import main

    file = tmp_path / "file"
    if contents is not None:
        file.write_bytes(contents)
    assert main([*words, str(file)]) == 2
    reported = capsys.readouterr().err
    assert str(file) in reported
    assert "sesame" not in reported


@pytest.mark.parametrize(
    "text", ["opensesame", "open sesame", "opensesame@host", "open:sesame", "OPEN://sesame", "open/sesame://x"]
)
def test_a_source_that_is_no_url_is_not_shown(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It may be a password, in --from and in its file."""
    from saver.cli import main

    file = tmp_path / "file"
    file.write_text(text)
    for words in (["--from", text], ["--from-file", str(file)]):
        assert main(["migrate", *words, "--url", "redis://127.0.0.1:1"]) == 2
        assert "sesame" not in capsys.readouterr().err
    assert main(["migrate", "--url", "redis://127.0.0.1:1"]) == 2
    assert "--from-file" in capsys.readouterr().err


def test_wrong_credentials(private_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The server's refusal is exit code 3, without the password."""
    from saver.cli import main

    running = private_server("--requirepass", "opensesame")
    assert main(["groups", "--url", f"{running.url}?password=open-sesame"]) == 3
    reported = capsys.readouterr().err
    assert "sesame" not in reported
    assert reported.count("\n") == 1


def test_every_command_on_a_cluster(cluster: Server, prefix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Those that the other tests run on one server alone."""
    agentlog = Agentlog(cluster.url, prefix, capsys)
    put(cluster.url, prefix, "1", "2")
    with agentlog.feed() as feed:
        park(feed, "audit", "1", "2")
    assert len(agentlog("groups", "--json").objects) == 1
    assert len(agentlog("parked", "audit", "--json").objects) == 2
    assert agentlog("retry", "audit", "--thread", "1").code == 0
    assert agentlog("skip", "audit", "--all", "--yes").code == 0
    assert agentlog("lag", "audit", "--json").objects[0]["parked"] == 0
    assert agentlog("drop", "audit", "--yes").code == 0
