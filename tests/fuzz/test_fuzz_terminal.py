"""A fuzzer of texts: whatever ids, names and values hold, `agentlog` prints no character that steers a terminal."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage

from eventlog import ActivityFeed, audit
from eventlog.errors import EventLogError
from saver import RedisStreamSaver
from tests.fuzz.conftest import EXAMPLES
from tests.fuzz.mutations import Snapshot, bounded
from tests.saver.cli.commands import Agentlog, park
from tests.saver.threads import config, step
from tests.servers import Server

pytestmark = pytest.mark.timeout(0 if EXAMPLES else 120)
CORPUS = [
    "\x1b[31m",
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1bP$q\x1b\\",
    "\x1b[6n",
    "\x9b31m",
    "\x90\x9c",
    "\x07\x08\x0b\x0c\x7f",
    "\r",
    "\n",
    "\r\nagentlog: all is well",
    "\t",
    "\x00",
    "\x85",
    "\u2028\u2029",
    "\u202eevil\u202c",
    "\u2066x\u2069",
    "\u200b\u200e\u200f\ufeff",
    "\ue000",
    "\U000e0041",
    "\ufffe",
    "[bold]b[/bold]",
    "[link=file:///etc/passwd]x[/link]",
    "[/]",
    "\\[red]",
    ":smile:",
    "%s%n{0}{x}",
    "$(id)`id`",
    "e\u0301\u0301\u0301",
    "\u4f60\u597d",
    "\U0001f469\u200d\U0001f4bb",
    "",
]
texts = st.lists(
    st.sampled_from(CORPUS) | st.text(st.characters(codec="utf-8"), max_size=4), min_size=1, max_size=4
).map("".join)
ids = texts.filter(bool)
COMMANDS = [
    "threads",
    "log THREAD",
    "log THREAD --patch",
    "show THREAD",
    "show THREAD --full",
    "diff THREAD @1 @2",
    "replay THREAD --speed 100000x",
    "verify --all",
    "verify THREAD",
    "check --all",
    "check THREAD",
    "tail --from beginning",
    "groups",
    "lag GROUP",
    "parked GROUP",
    "show NOTHING",
    "lag NOTHING",
    "export THREAD FILE --force",
    "import FILE",
    "rebuild THREAD",
    "delete THREAD --yes",
]


def fill(saver: RedisStreamSaver, feed: ActivityFeed, some: list[str]) -> None:
    """A thread, and a group, with these texts in all places."""
    thread, namespace, name, value, run, task, actor, group, error = some
    with audit(actor=actor, reason=value):
        for number in range(2):
            values = {name: [value, number], "talk": [AIMessage(value, name=name)], value: {value: value.encode()}}
            saved = saver.put(config(thread), *step(values, run_id=run, source=value, step=number, extra=value))
            saver.put_writes(saved, [(name, value), ("__error__", error)], task, value)
        saver.put(config(thread, namespace), *step({name: value}, run_id=run))
    park(feed, group, thread, told=error)


@given(some=st.tuples(ids, texts, ids, texts, ids, ids, ids, ids, texts), nothing=ids, as_json=st.booleans())
@bounded(4)
def test_texts_steer_no_terminal(
    any_server: Server, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str],
    some: tuple[str, ...], nothing: str, as_json: bool,
) -> None:  # fmt: skip
    """Every command escapes them, in its output and its errors, and JSON stays JSON of one line each."""
    prefix = f"fuzz{any_server.name.replace('.', '-')}"
    path = tmp_path_factory.getbasetemp() / "terminal"
    snapshot = Snapshot(any_server.client(), prefix)
    snapshot.clear()
    agentlog = Agentlog(any_server.url, prefix, capsys)
    with RedisStreamSaver.from_conn_string(any_server.url, prefix=prefix) as saver, agentlog.feed() as feed:
        try:
            fill(saver, feed, list(some))
        except EventLogError:
            return
    named = {"THREAD": some[0], "GROUP": some[7], "NOTHING": nothing, "FILE": str(path)}
    for command in COMMANDS:
        words = [named.get(word, word) for word in command.split()]
        if any(word.startswith("-") and word not in command for word in words):
            continue  # it looks like an option
        done = agentlog(*words, *(["--json"] if as_json else []))
        assert done.code in {0, 1, 2, 3}, (command, done)
        assert (done.out + done.err).replace("\n", "").isprintable(), (command, done)
        for line in done.out.split("\n")[:-1] if as_json else ():
            json.loads(line)
    snapshot.clear()
