"""Signing keys as commands take them: files, or an environment variable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from eventlog.errors import InvalidArgument
from eventlog.keys import Keyspace
from eventlog.printable import word
from eventlog.signing import Signer, SigningKey
from saver.cli.output import BadInput

__all__ = ["KEY", "KeyFiles", "saver_keys", "signed", "signer_of"]

KEY = "AGENTLOG_KEY"
"""The environment variable with a key."""
SHORTEST = 16
"""Bytes of the shortest secret."""
LONGEST = 65_536
"""Bytes of the longest key file."""

KeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help=f"PEM of an Ed25519 public or private key, or a secret. Repeatable, the current one first. [env: {KEY}]",
    ),
]


def signer_of(paths: list[Path] | None) -> Signer | None:
    """The signer with the keys of some files, None without a key.

    Raises `BadInput` for a file that cannot be read or holds no key.
    """
    keys: list[SigningKey] = []
    for path in paths or ():
        try:
            with path.open("rb") as file:
                data = file.read(LONGEST + 1)
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error
        if len(data) > LONGEST:
            raise BadInput(f"{path} has more than {LONGEST:,} bytes, and is no key.")
        keys += _keys(data, str(path))
    if not keys and (given := os.environ.get(KEY)):
        if os.path.isfile(given):  # noqa: PTH113 - Path.is_file raises for long texts
            raise BadInput(f"{KEY} holds the name of a file; it takes the key itself. Pass --key-file {word(given)}.")
        keys = _keys(given.encode(), KEY)
    return Signer(keys[0], keys[1:]) if keys else None


def saver_keys(paths: list[Path] | None) -> dict[str, Any]:
    """The settings of a saver that signs and verifies with the keys of some files, none without a key."""
    signer = signer_of(paths)
    return {} if signer is None else {"signing_key": signer.key, "accepted_keys": tuple(signer.keys.values())}


def signed(keyspace: Keyspace, signer: Signer | None) -> Keyspace:
    """A keyspace whose events are checked by a signer, if there is one."""
    if signer is None:
        return keyspace
    return Keyspace(keyspace.prefix, keyspace.partitions, signer, keyspace.limits)


def _keys(data: bytes, where: str) -> list[SigningKey]:
    """The key in some bytes; a secret with the end of its line, and without it."""
    try:
        if b"PUBLIC KEY" in data:
            return [SigningKey.ed25519_public(data)]
        if b"PRIVATE KEY" in data:
            return [SigningKey.ed25519(data)]
        bare = data.strip()
        readings = [bare, data] if bare.isascii() else [data, bare]
        if bare == data or len(bare) < SHORTEST:
            readings = [data]
        return [SigningKey.hmac(one) for one in readings]
    except InvalidArgument as error:
        raise BadInput(f"{where}: {error}") from error
