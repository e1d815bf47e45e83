"""`agentlog verify`: verdicts, findings, keys, digests and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from eventlog.signing import SigningKey
from saver import RedisStreamSaver
from tests.projections.tampering import Tampering, bent, chained
from tests.saver.audit import Audit, put_of
from tests.saver.cli.commands import STEERING, Agentlog, put

SECRET = "a secret of sixteen bytes or more"


def tamper(agentlog: Agentlog, thread: str) -> None:
    """Turns a bit in the second entry."""
    with Audit(agentlog.url, agentlog.prefix) as audit:
        tampering = Tampering(audit.client, audit.keyspace.thread(thread.encode()))
        first, second, *rest = tampering.entries()
        tampering.write([first, bent(second), *rest])


def test_what_is_unchanged(everywhere: Agentlog) -> None:
    """On every server: a line of JSON per thread, or a table for people."""
    put(everywhere.url, everywhere.prefix, "1", "2", STEERING, count=2)
    done = everywhere("verify", "1", "--json")
    with RedisStreamSaver.from_conn_string(everywhere.url, prefix=everywhere.prefix) as saver:
        expected = saver.verify("1").as_dict()
    assert (done.code, done.objects, done.err) == (0, [expected], "")
    done = everywhere("verify", "--all", "--json")
    assert (done.code, sorted(one["thread_id"] for one in done.objects)) == (0, sorted(["1", "2", STEERING]))
    done = everywhere("verify", "--all")
    assert (done.code, done.out.count("unchanged")) == (0, 3)
    assert "\x1b" not in done.out


def test_what_was_altered(agentlog: Agentlog) -> None:
    """Exit code 1, and each finding with its entry."""
    put(agentlog.url, agentlog.prefix, "1", STEERING, count=2)
    tamper(agentlog, STEERING)
    done = agentlog("verify", "--all", "--json")
    assert done.code == 1
    assert {one["thread_id"]: one["sound"] for one in done.objects} == {"1": True, STEERING: False}
    (finding,) = [one for reported in done.objects for one in reported["findings"]]
    assert finding["kind"] == "altered"
    done = agentlog("verify", STEERING)
    assert (done.code, "\x1b" in done.out) == (1, False)
    assert finding["entry_id"] in done.out
    assert "1 finding" in done.out


def test_rebuilding_reads_no_digests(agentlog: Agentlog) -> None:
    """Views are rebuilt from an altered event, as CLI.md says, and verify finds it before and after."""
    put(agentlog.url, agentlog.prefix, "1", count=2)
    tamper(agentlog, "1")
    assert agentlog("verify", "1").code == 1
    done = agentlog("rebuild", "--all")
    assert (done.code, done.lines) == (0, ["1 thread rebuilt."])
    assert "altered:" in agentlog("verify", "--all").out


def test_digests_that_were_kept(agentlog: Agentlog) -> None:
    """Prove that nothing changed, or that something did."""
    put(agentlog.url, agentlog.prefix, "1")
    (reported,) = agentlog("verify", "1", "--json").objects
    put(agentlog.url, agentlog.prefix, "1")
    assert agentlog("verify", "1", "--digest", f"{reported['sequence']}:{reported['digest']}").code == 0
    assert agentlog("verify", "1", "--digest", f"{reported['sequence']}:{'0' * 40}").code == 1


@pytest.mark.parametrize("form", ["secret", "secret in the environment", "private", "public"])
def test_signatures(agentlog: Agentlog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """A key of a file or variable checks them; unsigned threads are findings."""
    private = Ed25519PrivateKey.generate()
    file = tmp_path / "key"
    if form.startswith("secret"):
        file.write_text(SECRET + "\n")
        key = SigningKey.hmac(SECRET.encode())
    else:
        key = SigningKey.ed25519(private)
        file.write_bytes(
            private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
            if form == "private"
            else private.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        )
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, signing_key=key) as saver:
        saver.put(*put_of("1", 1))
        saver.put(*put_of("1", 2, 1))
    put(agentlog.url, agentlog.prefix, "unsigned")
    words = ["--key-file", str(file)]
    if form == "secret in the environment":
        monkeypatch.setenv("AGENTLOG_KEY", SECRET)
        words = []
    (reported,) = agentlog("verify", "1", "--json", *words).objects
    assert (reported["sound"], reported["signed"]) == (True, 2)
    done = agentlog("verify", "unsigned", "--json", *words)
    assert (done.code, {one["kind"] for one in done.objects[0]["findings"]}) == (1, {"unsigned"})
    (last,) = done.objects[0]["findings"][1:]  # the writes after the checkpoint
    done = agentlog("verify", "unsigned", *words)
    assert (done.code, done.out.count("is not signed")) == (1, 1)
    assert f"; 2 such entries, the last is {last['entry_id']}\n" in done.out
    assert agentlog("check", "unsigned", *words).out.count("is not signed") == 1
    with Audit(agentlog.url, agentlog.prefix) as audit:
        tampering = Tampering(audit.client, audit.keyspace.thread(b"1"))
        first, second = tampering.entries()
        tampering.write(chained([bent(first), second]))
    done = agentlog("verify", "1", "--json", *words)
    assert (done.code, {one["kind"] for one in done.objects[0]["findings"]}) == (1, {"forged", "rolled back"})


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["1", "--all"],
        ["--all", "--digest", "1:" + "0" * 40],
        ["1", "2", "--digest", "1:" + "0" * 40],
        ["1", "--digest", "1:abc"],
        ["1", "--digest", "x:" + "0" * 40],
        ["1", "--digest", "0:" + "0" * 40],
        ["1", "--digest", "1:" + "z" * 40],
        ["1", "--key-file", "/nowhere/at/all"],
        ["nobody"],
    ],
)
def test_bad_input(agentlog: Agentlog, words: list[str]) -> None:
    """One line on stderr, exit code 2."""
    put(agentlog.url, agentlog.prefix, "1")
    done = agentlog("verify", *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)


def test_keys_that_are_none(agentlog: Agentlog, tmp_path: Path) -> None:
    """A file with something else in it; its contents are not shown."""
    put(agentlog.url, agentlog.prefix, "1")
    certificate, ssh = b"-----BEGIN CERTIFICATE-----\nnothing", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5nothing"
    public, private = b"-----BEGIN PUBLIC KEY-----\nnothing", b"-----BEGIN PRIVATE KEY-----\nnothing"
    for contents in (b"short", public, private, certificate, ssh, b'{"kty": "OKP", "x": "nothing"}'):
        file = tmp_path / "key"
        file.write_bytes(contents)
        done = agentlog("verify", "1", "--key-file", str(file))
        assert (done.code, len(done.err.splitlines())) == (2, 1)
        assert "nothing" not in done.err


def test_nothing_there_and_no_server(agentlog: Agentlog) -> None:
    """A prefix that nobody used is bad input; a server that does not answer is not."""
    assert agentlog("verify", "1").code == 2
    assert agentlog("verify", "--help").code == 0
    away = Agentlog("redis://127.0.0.1:1/0", agentlog.prefix, agentlog._capsys)
    assert away("verify", "1").code == 3


def test_a_user_who_may_only_read(agentlog: Agentlog) -> None:
    """Verifies all the same."""
    put(agentlog.url, agentlog.prefix, "1")
    with Audit(agentlog.url, agentlog.prefix) as audit:
        client: Any = audit.client
        user = "reader" + agentlog.prefix
        rules = [f"~*{agentlog.prefix}*", "+@read", "+@connection", "+eval", "+evalsha", "+script|load", "+time"]
        client.execute_command("ACL", "SETUSER", user, "on", ">secret", *rules)
        try:
            flags = RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, username=user, password="secret")  # fmt: skip
            with flags as reader:
                assert reader.verify("1").sound
        finally:
            client.execute_command("ACL", "DELUSER", user)


def test_signatures_that_nobody_checks_are_told_of(agentlog: Agentlog) -> None:
    """Without a key, a signed log says that its signatures were not looked at."""
    with RedisStreamSaver.from_conn_string(agentlog.url, prefix=agentlog.prefix, signing_key=b"k" * 16) as saver:
        saver.put(*put_of("1", 1))
    done = agentlog("verify", "1")
    assert done.code == 0
    assert "1 signatures" in done.err
    assert "--key-file" in done.err
