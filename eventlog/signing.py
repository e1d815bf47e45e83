"""Signatures prevent a user who can write to the server from forging a log.

Each event of a saver with a key has a field `g`, the seal, of eight counted parts:

    2, the version of the seal
    the mark of the life: 8 random bytes
    the name of the key
    the writer: one per saver and process
    the writer's count of its events
    the entry id of the last entry of the log that the writer had seen
    the digest of that entry
    the signature of these parts, the thread, and the SHA-256 of the event's other fields

A signature proves that:

- Nobody without the key made or changed the event, or moved it from another thread.
- The event is not a repetition, since a writer uses each count once.
- The log up to the entry that the writer had seen is unchanged, since its digest is signed. If several writers append
  at the same time, the next event of a writer that has seen their entries covers them.
- The event belongs to this life of the thread.

Theory of lives:

1. A life begins with a thread's first event and ends when the thread is deleted or expires. The writer of the first
   event draws the mark. All events of a life carry it. An import restores a life with its mark.
2. A writer learns the mark from a signed entry: one that it read, or the last one of the log. It never asks a view.
3. A put names the digest that its writer saw last. The script appends if that is the digest of the log's last entry,
   since the chain of digests covers the mark of the first event. Otherwise the seal of the last entry must begin as the
   new one does, with the same version and mark. If neither holds, nothing is appended. The reply has the last entry, the
   writer checks its signature, and signs again. So a put takes one round trip, or two if the writer did not know the log.
4. A first event has seen nothing. Only the writer that drew the mark has such events, since a few may be in flight at once.
5. A removal, and the record that ends a copy, have seen the very entry before them. So neither can be moved, not even
   within its life.
6. A copy is a life of its own. Its record names the source, the life of the source, and the last number and digest, and it
   lists the writer and count of each copied seal. Entries that were signed for the source count only if they are listed.
7. A reader accepts entries of one life, which must be that of the entries at both ends of the log. Verifying compares all.

A thread that began under seals of version 1, which have neither version nor mark, goes on with these until it is deleted.
Rules 3 to 7 do not protect it, and verifying says so. A copy of it does begin with a mark.

A signature does not prove that the end of the log is complete, or that the server replies with the newest state. A digest
that was exported and kept elsewhere proves that a log has not lost its end. Somebody may also put a whole earlier life back,
and calls in flight while their thread is deleted may carry its mark into the next life.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
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
from eventlog.key_forms import encoded, key_form

__all__ = ["FORGED", "UNSIGNED", "Examined", "Known", "Seal", "Signer", "SigningKey", "life_of", "seal_of"]

UNSIGNED, FORGED = "unsigned", "forged"
SEEN = 10_000
"""Most threads whose last entry a signer remembers."""
VERSION = b"2"
"""The version of seals with the mark of a life."""
MARK = 8
"""Bytes of a mark."""
_MARKED = counted(VERSION) + b"%d:" % MARK
_UNMARKED = b"12:"
"""Seals of version 1 begin with the name of the key."""


class SigningKey:
    """A key to sign and verify with, or the public half of one, to verify only.

    Writers and auditors who trust each other share `SigningKey.hmac(secret)`. Otherwise writers use
    `SigningKey.ed25519(private)` and auditors `SigningKey.ed25519_public(public)`. Ed25519 needs the extra `signing`.
    """

    def __init__(self, name: str, sign: Any, verify: Any) -> None:
        self.name = name
        """The name of the key in the log: some digits of a digest of the secret or the public key."""
        self.sign: Callable[[bytes], bytes] = sign
        """Signs some bytes."""
        self.verify: Callable[[bytes, bytes], bool] = verify
        """Whether a signature of some bytes is of this key."""
        self._public: SigningKey | None = None
        self._as_public: frozenset[str] = frozenset()
        """Of a secret: the names of the Ed25519 keys, if any, whose public half it is, or stands for as text."""

    @classmethod
    def hmac(cls, secret: bytes) -> SigningKey:
        """HMAC-SHA-256 with a secret of 16 bytes or more.

        Raises `InvalidArgument` for a shorter one, and for a key file in the place of a secret.
        """
        if not isinstance(secret, (bytes, bytearray)):
            raise TypeError(f"A secret must be bytes, not {type(secret).__name__}.")
        if len(secret) < 16:
            raise InvalidArgument("A secret must have 16 bytes or more; make one with secrets.token_bytes(32).")
        if form := key_form(bytes(secret)):
            raise InvalidArgument(
                f"That is a key in the form {form}, not a secret. Others may know it, and could forge. {_EXPECTED}"
            )
        keyed = hmac.new(bytes(secret), digestmod="sha256")

        def sign(data: bytes) -> bytes:
            made = keyed.copy()  # faster than to read the secret again
            made.update(data)
            return made.digest()

        name = sha256(b"name of a secret" + sha256(bytes(secret)).digest()).hexdigest()[:12]
        made = cls(name, sign, lambda signature, data: hmac.compare_digest(signature, sign(data)))
        made._as_public = frozenset(map(_public_name, (bytes(secret), *encoded(bytes(secret)))))
        return made

    @classmethod
    def ed25519(cls, private: Any) -> SigningKey:
        """Ed25519 with a private key.

        It takes PEM bytes without a password, 32 raw bytes, or a key object of `cryptography`.
        """
        ed25519, serialization, _ = _ed25519()
        kind = ed25519.Ed25519PrivateKey
        key = _key(private, "private", kind, kind.from_private_bytes, serialization.load_pem_private_key, None)
        half = cls.ed25519_public(key.public_key())
        made = cls(half.name, key.sign, half.verify)
        made._public = half
        return made

    @classmethod
    def ed25519_public(cls, public: Any) -> SigningKey:
        """The public half of an Ed25519 key, which verifies and cannot sign.

        It takes PEM bytes, 32 raw bytes, or a key object of `cryptography`.
        """
        ed25519, serialization, invalid = _ed25519()
        kind = ed25519.Ed25519PublicKey
        key = _key(public, "public", kind, kind.from_public_bytes, serialization.load_pem_public_key)
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

        def verify(signature: bytes, data: bytes) -> bool:
            try:
                key.verify(signature, data)
            except invalid:
                return False
            return True

        return cls(_public_name(raw), None, verify)

    @property
    def can_sign(self) -> bool:
        """Whether the key is more than a public half."""
        return self.sign is not None

    def public(self) -> SigningKey:
        """The public half, for auditors.

        Raises `InvalidArgument` for a secret, which has none.
        """
        if self._public is None:
            if self.can_sign:
                raise InvalidArgument(
                    "A secret has no public half. Use SigningKey.ed25519 if auditors must not be able to forge."
                )
            return self
        return self._public


@dataclass(frozen=True, slots=True)
class Seal:
    """The parts of the field `g` of an event."""

    key: str
    writer: bytes
    count: int
    seen: bytes
    """Entry id of the last entry that the writer had seen, b"" for none."""
    digest: bytes
    signature: bytes
    life: bytes = b""
    """The mark of the life; b"" in a seal of version 1."""

    def signed(self, thread: bytes, content: str) -> bytes:
        """The bytes that the signature covers."""
        parts = (self.key.encode(), self.writer, b"%d" % self.count, self.seen, self.digest)
        return _signed(thread, content, _beginning(self.life), b"".join(map(counted, parts)))


@dataclass(frozen=True, slots=True)
class Known:
    """A writer's knowledge of a thread's log, with which it signs."""

    life: bytes
    """The mark of the life; b"" for a life that began under seals of version 1."""
    seen: bytes = b""
    """Entry id of the last entry that the writer had seen, b"" for none."""
    digest: bytes = b""

    @classmethod
    def begun(cls, seen: bytes = b"", digest: bytes = b"") -> Known:
        """The knowledge of a new life, whose mark is drawn now."""
        return cls(token_bytes(MARK), seen, digest)

    @property
    def beginning(self) -> bytes:
        """The bytes that the seals of this life begin with."""
        return _beginning(self.life) or _UNMARKED


@dataclass(frozen=True, slots=True)
class Examined:
    """The result of examining the signature of an event."""

    seal: Seal | None
    wrong: str
    """UNSIGNED or FORGED; "" if the signature is right."""
    message: str


def seal_of(flat: Sequence[bytes]) -> tuple[Seal | None, list[bytes]]:
    """The seal of an event, None if there is none, and the other fields.

    Raises `codec.Malformed`.
    """
    for at in range(0, len(flat), 2):
        if flat[at] == b"g":
            return _parsed(flat[at + 1]), [*flat[:at], *flat[at + 2 :]]
    return None, list(flat)


def _parsed(field: bytes) -> Seal:
    try:
        life, parts = b"", split_counted(field)
        if len(parts) > 6 and parts[0].isdigit():
            version, life, *parts = parts
            if int(version) > int(VERSION):
                raise codec.Malformed(f"has a seal of version {int(version)}; upgrade this package to read it")
            if version != VERSION or len(life) != MARK:
                raise codec.Malformed("has a seal of an unknown form")
        key, writer, number, seen, digest, signature = parts
        return Seal(key.decode(), writer, int(number), seen, digest, signature, life)
    except codec.Malformed:
        raise
    except ValueError as error:
        raise codec.Malformed("has a seal of an unknown form") from error


def life_of(field: bytes) -> bytes:
    """The mark in a field `g` that nobody has verified; b"" if there is none."""
    return field[len(_MARKED) : len(_MARKED) + MARK] if field.startswith(_MARKED) else b""


class Signer:
    """Signs the events of one saver and verifies those that it reads, in many threads."""

    def __init__(self, key: SigningKey, accepted: Iterable[SigningKey] = ()) -> None:
        self.key = key
        self.keys = {one.name: one for one in (key, *accepted)}
        if public := self._taken_for_secrets() & self.keys.keys():
            raise InvalidArgument(
                f"A secret is the public half of key {min(public)!r}. Everyone who has that half could forge. {_EXPECTED}"
            )
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._begin_process()
        renew_after_fork(self)

    def _taken_for_secrets(self) -> frozenset[str]:
        """The names of the Ed25519 keys whose public halves the secrets might be."""
        return frozenset().union(*(one._as_public for one in self.keys.values()))

    def _begin_process(self) -> None:
        """Become a new writer, in a forked process as well."""
        self._named = counted(self.key.name.encode()) + counted(token_bytes(8))
        """The counted key and writer, with which each seal goes on."""
        self._count = count(1)
        self._lock = Lock()
        for thread in [thread for thread, known in list(self._known.items()) if not known.seen]:
            del self._known[thread]  # the parent has drawn these marks

    def known(self, thread: bytes) -> Known:
        """The knowledge to sign the next event of a thread with.

        A thread that was neither read nor written is new, with a mark that is drawn now.
        """
        with self._lock:
            return self._known.get(thread) or self._keep(thread, Known.begun())

    def sign(self, thread: bytes, fields: list[bytes], known: Known | None = None) -> list[bytes]:
        """The fields of an event with its seal.

        `known` is by default what `known` returns. Raises `InvalidArgument` if the key is a public half.
        """
        if not self.key.can_sign:
            raise InvalidArgument(
                "The signing key is a public half: it verifies and cannot sign. Pass the private key to write."
            )
        known = known or self.known(thread)
        seen, digest, begin = known.seen, known.digest, _beginning(known.life)
        number = b"%d" % next(self._count)
        parts = b"%b%d:%b%d:%b%d:%b" % (self._named, len(number), number, len(seen), seen, len(digest), digest)
        signature = self.key.sign(_signed(thread, content_digest(fields), begin, parts))
        return [*fields, b"g", begin + parts + counted(signature)]

    def note(self, thread: bytes, entry_id: bytes | None, digest: bytes | None, life: bytes) -> None:
        """Note the last entry of a thread's log, as a reply named it, if it did, and the life."""
        if entry_id and digest:
            with self._lock:
                self._keep(thread, Known(life, entry_id, digest))

    def _keep(self, thread: bytes, known: Known) -> Known:
        self._known[thread] = known
        self._known.move_to_end(thread)
        while len(self._known) > SEEN:
            self._known.popitem(last=False)
        return known

    def forget(self, thread: bytes) -> None:
        """Forget a thread that was deleted or replaced."""
        with self._lock:
            self._known.pop(thread, None)

    def examine(self, thread: bytes, entry_id: bytes, flat: Sequence[bytes]) -> Examined:
        """Verify that an accepted key signed an event for a thread.

        `flat` is the fields of the event without `n` and `d`.
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
            message = f"{where} is signed with key {seal.key!r}, which is not accepted"
            if seal.key in self._taken_for_secrets():
                message += f": its public half was passed as a secret. {_EXPECTED}"
            return Examined(seal, FORGED, message)
        if not key.verify(seal.signature, seal.signed(thread, content_digest(rest))):
            message = f"{where} does not have the content that was signed, or was signed for another thread"
            return Examined(seal, FORGED, message)
        return Examined(seal, "", "")

    def check(self, thread: bytes, entry_id: bytes, flat: Sequence[bytes]) -> Seal:
        """The seal of an event that `examine` accepts.

        Raises `SignatureInvalid` for any other event.
        """
        found = self.examine(thread, entry_id, flat)
        if found.seal is None or found.wrong:
            remedy = _BEGIN_SIGNED if found.wrong == UNSIGNED else _REMEDY
            raise SignatureInvalid(f"{found.message}. {remedy}")
        return found.seal


_EXPECTED = (
    "For Ed25519 pass SigningKey.ed25519(private) to sign, or SigningKey.ed25519_public(public) to verify. For HMAC pass a secret "
    "that nobody else knows, such as secrets.token_bytes(32)."
)
_REMEDY = (
    "It was not deserialized. If the key was changed, pass the previous one too (accepted_keys, or a further "
    "--key-file); otherwise verify the thread, and restore its log from an export or a backup."
)
_BEGIN_SIGNED = (
    "It was not deserialized. A thread that began without a signing_key is read by a saver without one (agentlog: without "
    "--key-file and AGENTLOG_KEY); continue in a new thread. If the thread was signed from its beginning, verify it, and restore "
    "its log from an export or a backup."
)


def _public_name(raw: bytes) -> str:
    """The name of the Ed25519 key whose public half has these bytes."""
    return sha256(raw).hexdigest()[:12]


def _beginning(life: bytes) -> bytes:
    """The version and the mark, with which a seal begins; b"" for version 1."""
    return _MARKED + life if life else b""


def _signed(thread: bytes, content: str, begin: bytes, parts: bytes) -> bytes:
    version = VERSION if begin else b"1"
    own = len(thread), thread, len(content), content.encode()
    return b"event of a log, %b\n%d:%b%d:%b%b%b" % (version, *own, begin, parts)


def _key(given: Any, half: str, kind: Any, from_raw: Any, from_pem: Any, *password: None) -> Any:
    """A key object of `cryptography` from any form of a key."""
    key = given
    if isinstance(given, bytes):
        try:
            key = from_raw(given) if len(given) == 32 else from_pem(given, *password)
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"That is not an Ed25519 {half} key: {error}. Pass PEM or 32 raw bytes.") from error
    if not isinstance(key, kind):
        raise InvalidArgument(f"An Ed25519 {half} key is needed, not {type(key).__name__}.")
    return key


def _ed25519() -> tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - an extra
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtra(_EXTRA) from error
    return ed25519, serialization, InvalidSignature


_EXTRA = 'Signing needs the cryptography package: pip install "langgraph-checkpoint-redis-streams[signing]".'
