"""Every command that reads a log refuses or marks what is not signed as it should be, as `agentlog verify` finds it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from eventlog.keys import Keyspace
from eventlog.signing import Known, SigningKey
from projections.integrity import seals
from projections.transfer.export import export_file
from projections.transfer.files import read_file
from projections.transfer.format import ThreadHead
from saver import RedisStreamSaver
from saver.cli.marks import Marks
from tests.projections.steps import Steps, is_call
from tests.projections.tampering import Entry, Tampering, bent, chained, later
from tests.saver.audit import Audit, checkpoint_id, config, put_of
from tests.saver.cli.commands import Agentlog, put

SECRET = "a secret of sixteen bytes or more"


@pytest.fixture(params=["hmac in the environment", "public half of ed25519"])
def key(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SigningKey, list[str]]:
    """A key to sign with, and the words that give commands what verifies it."""
    if request.param.startswith("hmac"):
        monkeypatch.setenv("AGENTLOG_KEY", SECRET)
        return SigningKey.hmac(SECRET.encode()), []
    private = Ed25519PrivateKey.generate()
    file = tmp_path / "public.pem"
    file.write_bytes(private.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    return SigningKey.ed25519(private), ["--key-file", str(file)]


def fill(agentlog: Agentlog, key: SigningKey, *threads: str) -> None:
    """Four checkpoints with writes in each thread."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, signing_key=key) as saver:
        for thread in threads:
            for number in range(1, 5):
                saver.put(*put_of(thread, number, number - 1 or None))
                saver.put_writes(config(thread, number), [("n", f"write {number}")], f"task {number}")


def tamper(agentlog: Agentlog, thread: str, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Alters a log as somebody without the key, and lets the views be built again."""
    with Audit(agentlog.url, agentlog.prefix) as audit:
        tampering = Tampering(audit.client, audit.keyspace.thread(thread.encode()))
        tampering.write(chained(change(tampering.entries())))
        audit.forget_views(thread)


def unsigned(entry: Entry) -> Entry:
    entry_id, flat = entry
    at = flat.index(b"g")
    return entry_id, [*flat[:at], *flat[at + 2 :]]


ALTERED: dict[str, tuple[str, Callable[[list[Entry]], list[Entry]]]] = {
    "not signed": ("unsigned", lambda entries: [*entries[:5], unsigned(entries[5]), *entries[6:]]),
    "wrongly signed": ("forged", lambda entries: [*entries[:5], bent(entries[5]), *entries[6:]]),
    "twice": ("repeated", lambda entries: [*entries[:5], (entries[5][0], entries[3][1]), *entries[6:]]),
}
COMMANDS = {
    "show": ["show", "t"],
    "show one": ["show", "t", checkpoint_id(4)],
    "show as of": ["show", "t", "--at", "7"],
    "diff": ["diff", "t", "@2", "@7"],
    "replay": ["replay", "t", "--speed", "9999x"],
    "export": ["export", "t", "FILE"],
    "export lines": ["export", "t", "FILE", "--jsonl", "--values"],
    "archive": ["archive", "t", "FILE"],  # before a public half, which cannot sign the removal, is refused
}


@pytest.mark.parametrize(("kind", "change"), ALTERED.values(), ids=ALTERED)
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_commands_refuse_what_is_not_signed(
    agentlog: Agentlog,
    key: tuple[SigningKey, list[str]],
    tmp_path: Path,
    words: list[str],
    form: list[str],
    kind: str,
    change: Callable[[list[Entry]], list[Entry]],
) -> None:
    """With exit code 1, and an error that names thread, entry and remedy; no value is shown or written."""
    signing, with_key = key
    fill(agentlog, signing, "t")
    file = tmp_path / "file"
    given = [str(file) if word == "FILE" else word for word in words]
    tamper(agentlog, "t", change)
    done = agentlog(*given, *form, *with_key)
    assert (done.code, done.out, file.exists()) == (1, "", False), (done, kind)
    assert "'t'" in done.err
    assert "Entry " in done.err
    assert "agentlog verify" in done.err or "erify the thread" in done.err


@pytest.mark.parametrize("words", [words for name, words in COMMANDS.items() if name != "archive"], ids=" ".join)
def test_commands_take_what_is_signed(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], tmp_path: Path, words: list[str]
) -> None:
    """With exit code 0; JSON has the mark."""
    signing, with_key = key
    fill(agentlog, signing, "t")
    given = [str(tmp_path / "file") if word == "FILE" else word for word in words]
    done = agentlog(*given, *with_key)
    assert (done.code, done.err.count("agentlog:")) == (0, 0), done.err
    if words[0] in ("show", "diff", "replay"):
        done = agentlog(*given, "--json", *with_key)
        assert (done.code, {one["signature"] for one in done.objects}) == (0, {"right"})


def test_states_before_what_is_not_signed_are_shown(agentlog: Agentlog, key: tuple[SigningKey, list[str]]) -> None:
    """Also where the damage is in the middle of the log."""
    signing, with_key = key
    fill(agentlog, signing, "t")
    tamper(agentlog, "t", ALTERED["wrongly signed"][1])
    for words in (
        ["show", "t", "--at", "4"],
        ["diff", "t", "@2", "@4"],
        ["replay", "t", "--until", "4", "--speed", "9999x"],
    ):
        done = agentlog(*words, "--json", *with_key)
        assert (done.code, {one["signature"] for one in done.objects}) == (0, {"right"}), done.err
    done = agentlog("show", "t", checkpoint_id(2), *with_key)
    assert (done.code, done.err) == (0, "")
    done = agentlog("diff", "t", "@1", "@3", *with_key)
    assert (done.code, "refused" in done.err, "signature" in done.err) == (0, False, False)


@pytest.mark.parametrize("change", [change for _, change in ALTERED.values()], ids=ALTERED)
def test_pending_writes_of_a_named_checkpoint_are_judged(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], change: Callable[[list[Entry]], list[Entry]]
) -> None:
    """A checkpoint is refused if a write to it is not signed as it should be."""
    signing, with_key = key
    fill(agentlog, signing, "t")
    tamper(agentlog, "t", change)
    done = agentlog("show", "t", checkpoint_id(3), *with_key)
    assert (done.code, done.out) == (1, "")


def test_late_writes_to_a_named_checkpoint_are_judged(agentlog: Agentlog, key: tuple[SigningKey, list[str]]) -> None:
    """Writes after the next checkpoint count for the one that they name, and for no other."""
    signing, with_key = key
    fill(agentlog, signing, "t")
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, signing_key=signing) as saver:
        saver.put_writes(config("t", 1), [("n", "late")], "task 9")
    tamper(agentlog, "t", lambda entries: [*entries[:-1], bent(entries[-1])])
    assert agentlog("show", "t", checkpoint_id(1), *with_key).code == 1
    assert agentlog("show", "t", checkpoint_id(2), *with_key).code == 0
    assert agentlog("show", "t", "--at", "2", *with_key).code == 0


@pytest.mark.parametrize(("kind", "change"), ALTERED.values(), ids=ALTERED)
def test_log_marks_what_is_not_signed(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], kind: str, change: Callable[[list[Entry]], list[Entry]]
) -> None:
    """Each line, for people and programs, with exit code 1; without a key nothing is marked."""
    signing, with_key = key
    fill(agentlog, signing, "t")
    assert agentlog("log", "t", *with_key).code == 0
    tamper(agentlog, "t", change)
    done = agentlog("log", "t", "--json", *with_key)
    marks = {one["sequence"]: one["signature"] for one in done.objects}
    assert (done.code, len(marks)) == (1, 8)
    assert kind in marks[6]
    assert {marks[number] for number in (1, 2, 3, 4, 5)} == {"right"}
    done = agentlog("log", "t", *with_key)
    assert done.code == 1
    assert f"signature: {kind}" in done.lines[5]
    assert "signature" not in "".join(done.lines[:5])
    assert "not signed as it should be" in done.err
    assert agentlog("log", "t", "--limit", "1", *with_key).code == 1


def test_log_reports_marks_and_damage(agentlog: Agentlog, key: tuple[SigningKey, list[str]]) -> None:
    """Of a log that cannot be read to its end: both, with the exit code of the damage."""
    signing, with_key = key
    fill(agentlog, signing, "t")

    def altered(entries: list[Entry]) -> list[Entry]:
        return [*entries[:3], unsigned(entries[3]), *entries[4:6], (entries[6][0], [*entries[6][1][:4], b"k", b"odd"])]

    tamper(agentlog, "t", altered)
    done = agentlog("log", "t", "--json", *with_key)
    assert (done.code, [one["signature"] for one in done.objects][3]) == (3, "unsigned")
    assert "not signed as it should be" in done.err
    assert "of thread 't'" in done.err


def test_log_without_a_key_marks_nothing(agentlog: Agentlog) -> None:
    """A log that is not signed is as ever."""
    put(agentlog.url, agentlog.prefix, "1")
    done = agentlog("log", "1", "--json")
    assert (done.code, [one for one in done.objects if "signature" in one]) == (0, [])


def test_log_leaves_out_what_was_appended_since(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that came after the log was verified has no mark, so it is not shown."""
    signing = SigningKey.hmac(SECRET.encode())
    monkeypatch.setenv("AGENTLOG_KEY", SECRET)
    fill(agentlog, signing, "t")

    def late(*given: Any) -> Marks:
        marks = Marks(*given)
        fill(agentlog, signing, "t")
        return marks

    monkeypatch.setattr("saver.cli.log.Marks", late)
    assert len(agentlog("log", "t", "--json").objects) == 8


@pytest.mark.parametrize("patch", [[], ["--patch"]], ids=["rows", "patch"])
def test_log_refuses_what_was_altered_since(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], monkeypatch: pytest.MonkeyPatch, patch: list[str]
) -> None:
    """An event that was right when the log was verified, and is not when it is read, is never marked as right."""
    signing, with_key = key
    fill(agentlog, signing, "t")

    def altering(*given: Any) -> Marks:
        marks = Marks(*given)
        tamper(agentlog, "t", ALTERED["wrongly signed"][1])
        return marks

    monkeypatch.setattr("saver.cli.log.Marks", altering)
    done = agentlog("log", "t", "--json", *patch, *with_key)
    assert done.code == 1
    assert [one["sequence"] for one in done.objects] in ([], [1, 2, 3, 4, 5])
    assert "does not have the content that was signed" in done.err


def test_check_names_what_is_not_signed(agentlog: Agentlog, key: tuple[SigningKey, list[str]]) -> None:
    """As a difference of the log, beside those of the views."""
    signing, with_key = key
    fill(agentlog, signing, "t", "u")
    assert agentlog("check", "--all", *with_key).code == 0
    put(agentlog.url, agentlog.prefix, "plain")
    done = agentlog("check", "--all", "--json", *with_key)
    found = {one["thread_id"]: one for one in done.objects if "thread_id" in one}
    assert done.code == 1
    assert {thread: one["ok"] for thread, one in found.items()} == {"t": True, "u": True, "plain": False}
    assert {one["view"] for one in found["plain"]["differences"]} == {"log"}
    assert all(one["what"].startswith("unsigned: Entry ") for one in found["plain"]["differences"])
    done = agentlog("check", "plain", *with_key)
    assert (done.code, "unsigned: Entry" in done.out) == (1, True)


def test_exports_of_all_leave_out_what_is_not_signed(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], tmp_path: Path
) -> None:
    """With exit code 1, and the reason; damaged logs can be kept as evidence."""
    signing, with_key = key
    fill(agentlog, signing, "t", "u")
    put(agentlog.url, agentlog.prefix, "plain")
    tamper(agentlog, "u", ALTERED["wrongly signed"][1])
    done = agentlog("export", "--all", str(tmp_path / "file"), "--json", *with_key)
    (reported,) = done.objects
    assert (done.code, reported["threads"]) == (1, 1)
    assert sorted(one["thread"] for one in reported["left_out"]) == ["plain", "u"]
    assert agentlog("export", "u", str(tmp_path / "evidence"), "--damaged", *with_key).code == 0
    done = agentlog("export", "--all", str(tmp_path / "lines"), "--jsonl", *with_key)
    assert done.code == 1
    assert {json.loads(line)["thread"] for line in (tmp_path / "lines").read_text().splitlines()} == {"t"}


def test_a_part_that_was_begun_without_a_key_is_checked(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], tmp_path: Path
) -> None:
    """An export with a key does not continue after threads that are not signed."""
    signing, with_key = key
    put(agentlog.url, agentlog.prefix, "a")
    fill(agentlog, signing, "b", "t")
    path = tmp_path / "file"

    def fail(request: Any) -> None:
        if is_call(request, "read_entries") and request.keys[0].endswith(b":t"):
            raise KeyboardInterrupt

    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix) as saver:
        keyspace = Keyspace(agentlog.prefix, 16)
        for _ in range(2):
            with contextlib.suppress(KeyboardInterrupt):
                Steps(saver).run(export_file(keyspace, None, path, overwrite=False), fail)
    done = agentlog("export", "--all", str(path), "--json", *with_key)
    (reported,) = done.objects
    assert (done.code, reported["threads"], [one["thread"] for one in reported["left_out"]]) == (1, 2, ["a"])
    assert {item.thread for item in read_file(path) if isinstance(item, ThreadHead)} == {"b", "t"}


def test_events_of_another_life_are_marked_and_refused(agentlog: Agentlog, key: tuple[SigningKey, list[str]]) -> None:
    """As the finding says."""
    signing, with_key = key
    fill(agentlog, signing, "t")
    with Audit(agentlog.url, agentlog.prefix) as audit:
        earlier = Tampering(audit.client, audit.keyspace.thread(b"t")).entries()[-2]
    assert agentlog("delete", "t", "--yes").code == 0
    fill(agentlog, signing, "t")
    tamper(agentlog, "t", lambda entries: [*entries, (later(entries), earlier[1])])
    done = agentlog("log", "t", "--json", *with_key)
    assert (done.code, "other life" in done.objects[-1]["signature"]) == (1, True)
    done = agentlog("show", "t", *with_key)
    assert (done.code, "another life of the thread" in done.err) == (1, True)


def test_verify_says_which_threads_an_older_version_began(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are unchanged, and a note says what is not found in them."""
    signing, with_key = key
    with monkeypatch.context() as patched:
        patched.setattr(Known, "begun", classmethod(lambda cls, *seen: cls(b"", *seen)))
        fill(agentlog, signing, "t")
    done = agentlog("verify", "t", *with_key)
    assert (done.code, "8 signatures of thread 't': the thread began under an older version" in done.err) == (0, True)
    assert agentlog("verify", "t", "--json", *with_key).objects[0]["unmarked"] == 8
    assert agentlog("show", "t", *with_key).code == 0


def test_tail_says_that_pointers_are_not_signed(agentlog: Agentlog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a key is set, since nothing of the feed is checked with it."""
    monkeypatch.setenv("AGENTLOG_KEY", SECRET)
    fill(agentlog, SigningKey.hmac(SECRET.encode()), "t")
    done = agentlog("tail", "--json")
    assert (done.code, len(done.objects), "not signed" in done.err) == (0, 8, True)


def test_a_file_name_is_no_key(agentlog: Agentlog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name in AGENTLOG_KEY would be taken as a secret, and everything would look forged."""
    path = tmp_path / "public.pem"
    path.write_text("a key")
    monkeypatch.setenv("AGENTLOG_KEY", str(path))
    done = agentlog("verify", "t")
    assert (done.code, f"Pass --key-file {path}." in done.err) == (2, True)


def without_key(monkeypatch: pytest.MonkeyPatch, agentlog: Agentlog, *words: str) -> None:
    """Runs a command that finds no key in the environment."""
    with monkeypatch.context() as patch:
        patch.delenv("AGENTLOG_KEY", raising=False)
        assert agentlog(*words).code == 0


@pytest.mark.parametrize(("kind", "change"), ALTERED.values(), ids=ALTERED)
def test_import_refuses_what_is_not_signed(
    agentlog: Agentlog,
    key: tuple[SigningKey, list[str]],
    tmp_path: Path,
    kind: str,
    change: Callable[[list[Entry]], list[Entry]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a key, a file with an altered log imports nothing; its other threads can be named."""
    signing, words = key
    fill(agentlog, signing, "fine", "t")
    tamper(agentlog, "t", change)
    file = str(tmp_path / "file")
    without_key(monkeypatch, agentlog, "export", "--all", file)
    elsewhere = Agentlog(agentlog.url, f"{agentlog.prefix}-elsewhere", agentlog._capsys)
    done = elsewhere("import", file, *words)
    assert (done.code, done.out) == (1, "")
    assert f"{file!r}, thread 't': Entry" in done.err
    assert "Nothing was imported" in done.err
    assert "Traceback" not in done.err
    assert elsewhere("threads").out == ""
    assert "agentlog verify" not in elsewhere("import", file, "--thread", "t", *words).err  # which has no thread yet
    assert elsewhere("import", file, "--thread", "fine", *words).code == 0
    assert elsewhere("verify", "fine", *words).code == 0
    without_key(monkeypatch, elsewhere, "import", file)
    done = elsewhere("verify", "t", *words)
    assert (done.code, kind in done.out) == (1, True)


def test_import_takes_what_is_signed(
    agentlog: Agentlog, key: tuple[SigningKey, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signed threads and their copies, pruned or not, are imported with a key and verify as before."""
    signing, words = key
    monkeypatch.setattr(seals, "RECENT", 1)  # so that writers have seen entries long ago
    fill(agentlog, signing, "pruned", "t")
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, signing_key=signing) as saver:
        saver.copy_thread("t", "copy")
        saver.copy_thread("copy", "copy of copy")
        saver.put(*put_of("copy", 5, 4))
        saver.put(*put_of("t", 5, 4))
        saver.prune(["pruned"], keep_last=1)
    file = str(tmp_path / "file")
    without_key(monkeypatch, agentlog, "export", "--all", file)
    elsewhere = Agentlog(agentlog.url, f"{agentlog.prefix}-elsewhere", agentlog._capsys)
    done = elsewhere("import", file, *words)
    assert (done.code, done.err) == (0, "")
    assert elsewhere("import", file, *words).code == 0
    assert elsewhere("verify", "--all", *words).out == agentlog("verify", "--all", *words).out


def test_migrate_signs_the_copies(agentlog: Agentlog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a key that signs, copied threads are signed; a public half compares them and cannot copy."""
    put(agentlog.url, agentlog.prefix, "s", "t", count=2)
    private = Ed25519PrivateKey.generate()
    secret, public = tmp_path / "private.pem", tmp_path / "public.pem"
    secret.write_bytes(private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption()))
    public.write_bytes(private.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo))
    elsewhere = Agentlog(agentlog.url, f"{agentlog.prefix}-elsewhere", agentlog._capsys)
    source = ["--from", f"{agentlog.url}?prefix={agentlog.prefix}"]
    done = elsewhere("migrate", *source, "--key-file", str(public))
    assert done.code == 2
    assert "Pass the private key" in done.err
    assert elsewhere("migrate", *source, "--key-file", str(secret)).code == 0
    assert elsewhere("verify", "--all", "--key-file", str(public)).code == 0
    assert elsewhere("migrate", *source, "--verify-only", "--key-file", str(public)).code == 0
    monkeypatch.setenv("AGENTLOG_KEY", SECRET)
    done = elsewhere("migrate", *source, "--verify-only")
    assert (done.code, "which is not accepted" in done.err) == (1, True)
