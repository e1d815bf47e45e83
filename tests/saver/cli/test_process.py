"""`agentlog` as a process: pipes, signals, terminals, start."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from eventlog import ActivityFeed
from saver.cli import main
from tests.saver.cli.commands import COMMANDS, PROGRAM, STEERING, Agentlog, environment, on_terminal, park, put
from tests.servers import Server


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In its help, beside the options that all share."""
    assert main([name, "--help"]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"Examples:\n +agentlog {name}\b", told)
    assert all(option in told for option in ("--url", "--prefix", "--json", "--local"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the package."""
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"agentlog {version('langgraph-checkpoint-redis-streams')}\n"


def test_it_is_installed_as_a_program() -> None:
    """Which runs this."""
    from importlib.metadata import entry_points

    (found,) = entry_points(group="console_scripts", name="agentlog")
    assert found.load() is main


def test_a_defect_is_no_answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Code 1 would say that something was found, and text of the error must not steer the terminal."""

    def fail(_: object) -> None:
        raise RuntimeError("\x1b[2Jredis://me:secret@host")

    monkeypatch.setattr("typer.main.get_command", fail)
    assert main(["threads"]) == 3
    shown = capsys.readouterr().err
    assert r"RuntimeError: \x1b[2Jredis://***@host" in shown
    assert shown.endswith("agentlog: this is a defect of agentlog, and no answer. Please report it.\n")


@pytest.mark.server
def test_help_loads_no_langgraph() -> None:
    """It is there at once."""
    code = (
        "import sys; from saver.cli import main; assert main(['--help']) == 0;"
        "assert not {'langgraph', 'langchain_core'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True)


@pytest.mark.server
def test_names_of_the_package_are_loaded_on_demand() -> None:
    """As if they were imported there."""
    code = (
        "import saver, sys; assert 'langgraph' not in sys.modules; assert 'RedisStreamSaver' in dir(saver)\n"
        "from saver import *\nfrom saver.saver import RedisStreamSaver as own\nassert RedisStreamSaver is own is saver.RedisStreamSaver\n"
        "assert EmbeddedServer\n"
        "try: saver.nix\nexcept AttributeError as error: assert 'nix' in str(error)\nelse: raise AssertionError"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, capture_output=True)


# pipes


@pytest.mark.parametrize("words", ["tail", "tail --json", "tail --follow --from beginning", "--help", "groups"])
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_goes_away(agentlog: Agentlog, words: str, reader: str) -> None:
    """Ends it without a word."""
    put(agentlog.url, agentlog.prefix, "1", count=300)
    if words == "--help":
        process = subprocess.Popen(
            [*PROGRAM, words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
        )
    else:
        process = agentlog.start(*words.split())
    with process:
        subprocess.run(reader.split(), stdin=process.stdout, capture_output=True, check=True)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        if words.startswith("tail --follow"):
            put(agentlog.url, agentlog.prefix, "2", count=2)
        errors = process.stderr.read()
        code = process.wait(20)
    assert errors.count("\n") <= (words == "groups")
    assert "Error" not in errors
    assert code in {0, 141}


def test_an_output_that_is_full_or_closed(agentlog: Agentlog) -> None:
    """A full one is an error, in a line; a closed one is none."""
    put(agentlog.url, agentlog.prefix, "1")
    words = " ".join(f"'{one}'" for one in agentlog.words("tail"))
    full = subprocess.run(
        f"{words} > /dev/full", shell=True, env=environment(), capture_output=True, text=True, check=False
    )
    assert (full.returncode, full.stderr.count("\n")) == (3, 1)
    closed = subprocess.run(f"{words} >&-", shell=True, env=environment(), capture_output=True, text=True, check=False)
    assert (closed.returncode, closed.stderr) == (0, "")


# signals


def following(agentlog: Agentlog, *words: str) -> subprocess.Popen[str]:
    """A process that has printed its first line."""
    process = agentlog.start(*words)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


ENDS = pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])


@ENDS
@pytest.mark.parametrize("words", ["tail -f --from beginning", "lag audit --watch 0.1"])
def test_signals_end_what_follows(agentlog: Agentlog, words: str, number: signal.Signals, expected: int) -> None:
    """In order: no traceback, no half line."""
    check_end(agentlog, words, number, expected)


@ENDS
def test_signals_end_what_follows_a_cluster(
    cluster: Server, prefix: str, capsys: pytest.CaptureFixture[str], number: signal.Signals, expected: int
) -> None:
    """Which is followed in threads."""
    check_end(Agentlog(cluster.url, prefix, capsys), "tail -f --from beginning --json", number, expected)


def check_end(agentlog: Agentlog, words: str, number: signal.Signals, expected: int) -> None:
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        feed.group("audit").register()
    process = following(agentlog, *words.split())
    time.sleep(0.3)
    process.send_signal(number)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (expected, "")
    assert out == "" or out.endswith("\n")


def test_following_shows_what_comes_at_once(everywhere: Agentlog) -> None:
    """From now on, though stdout is a pipe; also where nothing was written before."""
    process = everywhere.start("tail", "--follow", "--json", "--limit", "2")
    assert process.stderr is not None
    assert "Nothing was written" in process.stderr.readline()
    put(everywhere.url, everywhere.prefix, "1")
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert len(out.splitlines()) == 2


def test_lag_is_watched_line_by_line(agentlog: Agentlog) -> None:
    """Where there is no terminal: the table under the time, or a JSON object."""
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        feed.group("audit").register()
    for words in (["--watch", "0.1"], ["--json", "--watch", "0.1"]):
        process = agentlog.start("lag", "audit", *words)
        assert process.stdout is not None
        if "--json" in words:
            assert '"pending": 2' in process.stdout.readline()
        else:
            for _ in range(2):
                assert re.match(r"\S{23}Z  group 'audit'$", process.stdout.readline())
                lines = [process.stdout.readline() for _ in range(19)]
                assert lines[0].startswith("partition")
                assert re.match(r"total +- +2 ", lines[17])
                assert lines[18] == "\n"
        process.terminate()
        process.communicate(timeout=20)


# terminals


def test_on_a_terminal_lines_are_coloured_and_fit(agentlog: Agentlog) -> None:
    """Long values are cut, NO_COLOR keeps colors out, and ids cannot steer it."""
    put(agentlog.url, agentlog.prefix, "1", STEERING, ns="long" * 50)
    for more in ({}, {"NO_COLOR": "1"}):
        with on_terminal(agentlog.words("tail"), columns=90, **more) as terminal:
            assert terminal.end() == 0, terminal.text
            bare = re.sub(r"\x1b\[[0-9;]*m", "", terminal.text)
            assert ("\x1b[" in terminal.text) == (not more)
            assert not set("\x1b\x07\u202e") & set(bare)
            assert max(map(len, bare.splitlines())) <= 90
            assert "longlong" in bare
            assert "\N{HORIZONTAL ELLIPSIS}" in bare


def shown_on(words: list[str], columns: int) -> list[str]:
    """The lines of a terminal without colours."""
    with on_terminal(words, columns=columns, NO_COLOR="1") as terminal:
        assert terminal.end() == 0, terminal.text
        return terminal.text.splitlines()


def test_on_a_terminal_columns_stand_under_a_heading(agentlog: Agentlog) -> None:
    """Columns keep their positions; channels are cut first, and threads never."""
    threads = ["42", "user-1234567", "7"]
    put(agentlog.url, agentlog.prefix, *threads, ns="risk:8d3c1f2e")
    heading, *lines = shown_on(agentlog.words("tail", "--thread", "user-1234567", "--thread", "42"), 80)
    assert heading.split()[:6] == ["time", "thread", "kind", "step", "nodes", "namespace"]
    assert heading.split()[6].startswith("chan")
    assert len(lines) == 4
    assert max(map(len, lines)) <= 80
    assert all("risk:8d3c1f2e" in line for line in lines)
    kinds = {line.index(kind) for line in lines for kind in ("checkpoint", "writes") if f" {kind} " in line}
    assert kinds == {heading.index("kind")}
    assert {line.index("risk:") for line in lines} == {heading.index("namespace")}
    assert {line.split()[1] for line in lines} == {"42", "user-1234567"}
    uuid = "1f0c5a3e-7b8d-6c2a-9e4f-0123456789ab"
    put(agentlog.url, agentlog.prefix, uuid, count=2)
    for columns in (80, 60):
        lines = shown_on(agentlog.words("tail", "--thread", uuid), columns)
        assert len({line.index(uuid) for line in lines[1:]}) == 1
    heading, *lines = shown_on(agentlog.words("tail", "--thread", uuid), 120)
    assert {line.index("messages") for line in lines} == {heading.index("channels")}


def test_what_is_parked_fits_a_terminal(agentlog: Agentlog) -> None:
    """Columns that do not fit move below their row, the error first."""
    uuid = "1f0c5a3e-7b8d-6c2a-9e4f-0123456789ab"
    put(agentlog.url, agentlog.prefix, "1", uuid)
    error = "cannot bill: " + "no account " * 5
    with agentlog.feed() as feed:
        park(feed, "audit", "1", told=error)
        park(feed, "wide", uuid, told=error)
    heading, row, below = shown_on(agentlog.words("parked", "audit"), 80)
    assert heading.split() == ["since", "thread", "kind", "step", "attempts", "waiting", "member"]
    assert len(row.split()) == 7
    assert below == f"    error: ValueError: {error}".rstrip()
    heading, row, *more = shown_on(agentlog.words("parked", "wide"), 80)
    assert heading.split() == ["since", "kind", "step", "attempts", "waiting"]
    assert len(row) <= 80
    assert [one.split()[0] for one in more if one.startswith("    ")] == ["thread:", "member:", "error:"]
    assert f"    thread: {uuid}" in more
    heading, row = shown_on(agentlog.words("parked", "wide"), 250)
    assert heading.split()[-1] == "error"
    assert error.rstrip() in row


def test_a_terminal_is_asked_before_something_is_given_up(agentlog: Agentlog) -> None:
    """No leaves all as it is, Ctrl-C too."""
    put(agentlog.url, agentlog.prefix, "1", "2")
    with agentlog.feed() as feed:
        group = park(feed, "audit", "1", "2")
        for keys, expected, left in (("n\n", 1, 2), ("\x03", 130, 2), ("y\n", 0, 0)):
            with on_terminal(in_session(agentlog.words("skip", "audit", "--all"))) as terminal:
                terminal.until("[y/N]: ")
                time.sleep(0.3)  # until it reads: Python may miss a signal that comes right before that
                terminal.type(keys)
                assert terminal.end() == expected
                assert "Traceback" not in terminal.text
            assert len(group.parked()) == left


def in_session(words: list[str]) -> list[str]:
    """The command with stdin as its controlling terminal, so that Ctrl-C is a signal."""
    code = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    return [sys.executable, "-c", code, *words]


def test_a_watch_is_redrawn_on_a_terminal(agentlog: Agentlog) -> None:
    """Until Ctrl-C, and leaves the cursor as it was."""
    put(agentlog.url, agentlog.prefix, "1")
    with agentlog.feed() as feed:
        register(feed)
    with on_terminal(in_session(agentlog.words("lag", "audit", "--watch", "0.1"))) as terminal:
        terminal.until("total")
        put(agentlog.url, agentlog.prefix, "1", count=5)
        terminal.until(" 12 ")
        terminal.type("\x03")
        assert terminal.end() == 130
        assert terminal.text.rfind("\x1b[?25h") > terminal.text.rfind("\x1b[?25l")
        assert "Traceback" not in terminal.text


def register(feed: ActivityFeed) -> None:
    feed.group("audit").register()


def test_a_cluster_is_followed_and_left(cluster: Server, prefix: str, capsys: Any) -> None:
    """Ctrl-C is answered within two seconds."""
    agentlog = Agentlog(cluster.url, prefix, capsys)
    put(cluster.url, prefix, "1")
    process = following(agentlog, "tail", "-f", "--from", "beginning")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert time.monotonic() - began < 5


def test_a_key_file_without_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    """No more is read than a key may have."""
    assert main(["verify", "t", "--url", "redis://localhost:1", "--key-file", "/dev/zero"]) == 2
    assert capsys.readouterr().err == "agentlog: /dev/zero has more than 65,536 bytes, and is no key.\n"
