"""Signatures, so that whoever can write to the server cannot forge a log.

Each event of a saver with a key carries a field `g`, each part of it behind its length: the key's name; the writer (one per
saver and process) and its count; the last entry of the thread's log that the writer had seen, and its digest; the signature, over
all of these, the thread, and the SHA-256 of the event's other fields.

- An event cannot be made up or altered without the key, nor be moved to another thread.
- It cannot be repeated: a writer's counts are each used once.
- The log up to the entry that a writer had seen is as it was then: the digest says so. Entries that several writers append at the
  same time are bound by the next event of any that has seen them.

What it does not prove: that nothing was taken off the end since the last event that saw it, or that the server gives the newest
state rather than an older one. A digest that was exported and kept elsewhere proves the first.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from secrets import token_bytes
from threading import Lock
from typing import Any

from eventlog import codec
from eventlog.codec import content_digest
from eventlog.errors import InvalidArgument, MissingExtra, SignatureInvalid
from eventlog.forks import renew_after_fork
from eventlog.framing import counted, split_counted

__all__ = ["FORGED", "UNSIGNED", "Examined", "Seal", "Signer", "SigningKey", "seal_of"]

UNSIGNED, FORGED = "unsigned", "forged"
SEEN = 10_000
"""Threads of which a signer remembers the last entry."""


class SigningKey:
    """A key to sign with, or, of Ed25519's two halves, the public one to verify with.

    `SigningKey.hmac(secret)` for those who write and those who verify alike; `SigningKey.ed25519(private)` to write and verify, and
    `SigningKey.ed25519_public(public)` for auditors, who can verify and not forge. Ed25519 needs the extra `signing`.
    """

    def __init__(self, name: str, sign: Any, verify: Any) -> None:
        self.name = name
        """What the key is called in the log: some digits of the SHA-256 of a secret's digest, or of a public key."""
        self._sign = sign
        self._verify = verify
        self._public: SigningKey | None = None

    @classmethod
    def hmac(cls, secret: bytes) -> SigningKey:
        """HMAC-SHA-256 with a secret of 16 bytes or more. Raises `InvalidArgument`."""
        if not isinstance(secret, (bytes, bytearray)):
            raise TypeError(f"A secret must be bytes, not {type(secret).__name__}.")
        if len(secret) < 16:
            raise InvalidArgument("A secret must have 16 bytes or more; make one with secrets.token_bytes(32).")
        keyed = hmac.new(bytes(secret), digestmod="sha256")

        def sign(data: bytes) -> bytes:
            made = keyed.copy()  # which is quicker than to begin with the secret
            made.update(data)
            return made.digest()

        name = sha256(b"name of a secret" + sha256(bytes(secret)).digest()).hexdigest()[:12]
        return cls(name, sign, lambda signature, data: hmac.compare_digest(signature, sign(data)))

    @classmethod
    def ed25519(cls, private: Any) -> SigningKey:
        """Ed25519 with a private key: PEM bytes without a password, 32 raw bytes, or `cryptography`'s key object."""
        ed25519, serialization, _ = _ed25519()
        key = private
        if isinstance(private, bytes):
            try:
                key = (
                    ed25519.Ed25519PrivateKey.from_private_bytes(private)
                    if len(private) == 32
                    else serialization.load_pem_private_key(private, None)
                )
            except (ValueError, TypeError) as error:
                raise InvalidArgument(f"That is no Ed25519 private key: {error}. Pass PEM or 32 raw bytes.") from error
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise InvalidArgument(f"An Ed25519 private key is needed, not {type(key).__name__}.")
        half = cls.ed25519_public(key.public_key())
        made = cls(half.name, key.sign, half._verify)
        made._public = half
        return made

    @classmethod
    def ed25519_public(cls, public: Any) -> SigningKey:
        """Ed25519's public half, which verifies and cannot sign: PEM bytes, 32 raw bytes, or `cryptography`'s key object."""
        ed25519, serialization, invalid = _ed25519()
        key = public
        if isinstance(public, bytes):
            try:
                key = (
                    ed25519.Ed25519PublicKey.from_public_bytes(public)
                    if len(public) == 32
                    else serialization.load_pem_public_key(public)
                )
            except (ValueError, TypeError) as error:
                raise InvalidArgument(f"That is no Ed25519 public key: {error}. Pass PEM or 32 raw bytes.") from error
        if not isinstance(key, ed25519.Ed25519PublicKey):
            raise InvalidArgument(f"An Ed25519 public key is needed, not {type(key).__name__}.")
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

        def verify(signature: bytes, data: bytes) -> bool:
            try:
                key.verify(signature, data)
            except invalid:
                return False
            return True

        return cls(sha256(raw).hexdigest()[:12], None, verify)

    @property
    def can_sign(self) -> bool:
        """Whether it is more than a public half."""
        return self._sign is not None

    def public(self) -> SigningKey:
        """The public half, for auditors. Raises `InvalidArgument` for a secret, which has none."""
        if self._public is None:
            if self.can_sign:
                raise InvalidArgument(
                    "A secret has no public half: use SigningKey.ed25519 for auditors who cannot forge."
                )
            return self
        return self._public

    def sign(self, data: bytes) -> bytes:
        """The signature."""
        signature: bytes = self._sign(data)
        return signature

    def verify(self, signature: bytes, data: bytes) -> bool:
        """Whether a signature is this key's."""
        return bool(self._verify(signature, data))


@dataclass(frozen=True, slots=True)
class Seal:
    """What the field `g` of an event says."""

    key: str
    writer: bytes
    count: int
    seen: bytes
    """Entry id of the last entry that the writer had seen; b"" for none."""
    digest: bytes
    signature: bytes

    def signed(self, thread: bytes, content: str) -> bytes:
        """What the signature is over."""
        return _signed(thread, content, _told(self.key, self.writer, self.count, self.seen, self.digest))


@dataclass(frozen=True, slots=True)
class Examined:
    """What a signature was found to be."""

    seal: Seal | None
    wrong: str
    """UNSIGNED or FORGED; "" where it is right."""
    told: str


def seal_of(flat: Sequence[bytes]) -> tuple[Seal | None, list[bytes]]:
    """The seal among the fields of an event, None if there is none, and the other fields. Raises `codec.Malformed`."""
    for at in range(0, len(flat), 2):
        if flat[at] == b"g":
            try:
                key, writer, number, seen, digest, signature = split_counted(flat[at + 1])
                seal = Seal(key.decode(), writer, int(number), seen, digest, signature)
            except ValueError as error:
                raise codec.Malformed("has a seal of another shape than this project writes") from error
            return seal, [*flat[:at], *flat[at + 2 :]]
    return None, list(flat)


class Signer:
    """Signs what one saver appends, and checks what it reads. Usable from many threads."""

    def __init__(self, key: SigningKey, accepted: Iterable[SigningKey] = ()) -> None:
        self.key = key
        self.keys = {one.name: one for one in (key, *accepted)}
        self._begin_process()
        renew_after_fork(self)
        self._seen: OrderedDict[bytes, tuple[bytes, bytes]] = OrderedDict()

    def _begin_process(self) -> None:
        """Begins as a writer of its own: a process that was forked counts on for itself."""
        self._named = counted(self.key.name.encode()) + counted(token_bytes(8))
        """The key and the writer, as seals begin."""
        self._count = count(1)
        self._lock = Lock()

    def sign(self, thread: bytes, fields: list[bytes]) -> list[bytes]:
        """The fields of an event with its seal. Raises `InvalidArgument` where the key is a public half."""
        if not self.key.can_sign:
            raise InvalidArgument(
                "The signing key is a public half: it verifies and cannot sign. Pass the private key to write."
            )
        seen, digest = self._seen.get(thread, (b"", b""))
        number = b"%d" % next(self._count)
        told = b"%b%d:%b%d:%b%d:%b" % (self._named, len(number), number, len(seen), seen, len(digest), digest)
        return [*fields, b"g", told + counted(self.key.sign(_signed(thread, content_digest(fields), told)))]

    def note(self, thread: bytes, entry_id: bytes | None, digest: bytes | None) -> None:
        """That a thread's log ended with this entry, as a reply said; nothing where it said none."""
        if not entry_id or not digest:
            return
        with self._lock:
            self._seen[thread] = entry_id, digest
            self._seen.move_to_end(thread)
            while len(self._seen) > SEEN:
                self._seen.popitem(last=False)

    def forget(self, thread: bytes) -> None:
        """That a thread begins anew."""
        with self._lock:
            self._seen.pop(thread, None)

    def examine(self, thread: bytes, entry_id: bytes, flat: Sequence[bytes]) -> Examined:
        """The seal of an event, its fields without `n` and `d`, and what is wrong with it: whether a key that is accepted signed it
        for the thread.
        """
        where = f"Entry {entry_id.decode(errors='replace')}"
        try:
            seal, rest = seal_of(flat)
        except codec.Malformed as error:
            return Examined(None, FORGED, f"{where} {error}")
        if seal is None:
            return Examined(None, UNSIGNED, f"{where} is not signed")
        key = self.keys.get(seal.key)
        if key is None:
            told = f"{where} is signed with key {seal.key!r}, which is not among those given"
            return Examined(seal, FORGED, told)
        if not key.verify(seal.signature, seal.signed(thread, content_digest(rest))):
            told = f"{where} does not have the content that was signed, or was signed for another thread"
            return Examined(seal, FORGED, told)
        return Examined(seal, "", "")

    def check(self, thread: bytes, entry_id: bytes, flat: Sequence[bytes]) -> Seal:
        """The seal of an event, as `examine` finds it. Raises `SignatureInvalid` if anything is wrong."""
        found = self.examine(thread, entry_id, flat)
        if found.seal is None or found.wrong:
            remedy = _BEGIN_SIGNED if found.wrong == UNSIGNED else _REMEDY
            raise SignatureInvalid(f"{found.told}. {remedy}")
        return found.seal


_REMEDY = (
    "Nothing of it was deserialized. If the key was changed, pass the one before in accepted_keys; else verify the thread, and "
    "restore its log from an export or a backup."
)
_BEGIN_SIGNED = (
    "Nothing of it was deserialized. A thread that began before there was a signing_key is read by a saver without one; go on in a "
    "new thread. If it was signed from the beginning, verify it, and restore its log from an export or a backup."
)


def _told(key: str, writer: bytes, number: int, seen: bytes, digest: bytes) -> bytes:
    return b"".join(map(counted, (key.encode(), writer, b"%d" % number, seen, digest)))


def _signed(thread: bytes, content: str, told: bytes) -> bytes:
    return b"event of a log, 1\n%d:%b%d:%b%b" % (len(thread), thread, len(content), content.encode(), told)


def _ed25519() -> tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra(_EXTRA) from error
    return ed25519, serialization, InvalidSignature


_EXTRA = 'Signing needs the cryptography package: pip install "langgraph-checkpoint-redis-streams[signing]".'
