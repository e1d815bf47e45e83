"""Signing keys as commands are given them: files, or an environment variable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from eventlog.errors import InvalidArgument
from eventlog.signing import Signer, SigningKey
from saver.cli.output import BadInput

__all__ = ["KeyFiles", "signer_of"]

KEY = "AGENTLOG_KEY"
SHORTEST = 16

KeyFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--key-file",
        metavar="FILE",
        help=f"PEM of an Ed25519 public or private key, or a secret. Repeatable, the one in use first. [env: {KEY}]",
    ),
]


def signer_of(paths: list[Path] | None) -> Signer | None:
    """Who checks signatures, None without a key. Raises `BadInput` for a file that cannot be read or is no key."""
    keys: list[SigningKey] = []
    for path in paths or ():
        try:
            keys += _keys(path.read_bytes(), str(path))
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error
    if not keys and (given := os.environ.get(KEY)):
        keys = _keys(given.encode(), KEY)
    return Signer(keys[0], keys[1:]) if keys else None


def _keys(told: bytes, where: str) -> list[SigningKey]:
    """The key in some bytes; of a secret that ends in a blank, as a line of text does, both readings."""
    try:
        if b"PUBLIC KEY" in told:
            return [SigningKey.ed25519_public(told)]
        if b"PRIVATE KEY" in told:
            return [SigningKey.ed25519(told)]
        bare = told.strip()
        if bare == told or len(bare) < SHORTEST:
            return [SigningKey.hmac(told)]
        return (
            [SigningKey.hmac(bare), SigningKey.hmac(told)]
            if bare.isascii()
            else [SigningKey.hmac(told), SigningKey.hmac(bare)]
        )
    except InvalidArgument as error:
        raise BadInput(f"{where}: {error}") from error
