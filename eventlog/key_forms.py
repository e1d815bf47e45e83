"""Tells key files from secrets.

Bytes that hold a public key are known to others, so that a signature made with them as a secret proves nothing.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error
from contextlib import suppress

__all__ = ["encoded", "key_form"]

_PEM = re.compile(rb"---- ?BEGIN ")
_SSH = re.compile(rb"(?:ssh-(?:ed25519|rsa|dss)|ecdsa-sha2-\S+|sk-(?:ssh|ecdsa)-\S+)\s+AAAA")
_SSH_WIRE = re.compile(rb"\0\0\0.(?:ssh-|ecdsa-sha2-|sk-ssh-|sk-ecdsa-)|openssh-key-v1\0", re.DOTALL)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(rb"(?:[0-9A-Fa-f]{2}){16,}")
_SEQUENCE, _INTEGER = 0x30, 0x02


def key_form(data: bytes) -> str | None:
    """Returns the form of a key file that some bytes are, or are an encoding of. None for other bytes."""
    bare = data.strip().removeprefix(b"\xef\xbb\xbf").strip()
    if _PEM.search(bare):
        return "PEM"
    if _SSH.search(bare) or _SSH_WIRE.match(data):
        return "SSH"
    if _is_jwk(bare):
        return "JWK"
    if _is_der(data):
        return "DER"
    return next((form for inner in encoded(bare) if (form := key_form(inner))), None)


def encoded(data: bytes) -> list[bytes]:
    """Returns the bytes that a text stands for in hexadecimal and in base64, as far as it is one. They are shorter than it."""
    joined = b"".join(data.split())
    found = [bytes.fromhex(joined.decode())] if _HEX.fullmatch(joined) else []
    if _BASE64.fullmatch(joined):
        with suppress(Error):
            found.append(b64decode(joined.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/")) + b"=="))
    return found


def _is_jwk(bare: bytes) -> bool:
    if not bare.startswith((b"{", b"[")):
        return False
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        return False
    members = found if isinstance(found, list) else [found]
    return any(isinstance(one, dict) and ("kty" in one or "keys" in one) for one in members)


def _is_der(data: bytes) -> bool:
    """Whether some bytes are one ASN.1 sequence that begins as keys and certificates do.

    All of them have two parts or more, of which the first is a sequence or a number. Random bytes never look so in practice.
    """
    whole = _parts(data)
    if whole is None or len(whole) != 1 or whole[0][0] != _SEQUENCE:
        return False
    parts = _parts(whole[0][1])
    return parts is not None and len(parts) >= 2 and parts[0][0] in (_SEQUENCE, _INTEGER)


def _parts(data: bytes) -> list[tuple[int, bytes]] | None:
    """Returns tag and content of the ASN.1 parts that fill some bytes exactly, None if none do."""
    found, at = [], 0
    while at < len(data):
        tag, begin = data[at], at + 2
        length = data[at + 1] if begin <= len(data) else len(data)
        if length > 0x80:
            begin += length - 0x80
            length = int.from_bytes(data[at + 2 : begin], "big")
        at = begin + length
        if at > len(data):
            return None
        found.append((tag, data[begin:at]))
    return found
