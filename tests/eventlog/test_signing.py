"""Keys, seals and signers, without a server."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from eventlog import signing
from eventlog.errors import InvalidArgument, MissingExtra, SignatureInvalid
from eventlog.framing import counted, split_counted
from eventlog.signing import FORGED, UNSIGNED, Signer, SigningKey, life_of, seal_of
from tests.forks import in_child

SECRET = b"a secret of sixteen bytes or more"
LIFE = b"8 bytes!"
FIELDS = [b"k", b"writes", b"v", b"1", b"e", b"envelope"]
KEYS = [lambda: SigningKey.hmac(SECRET), lambda: SigningKey.ed25519(bytes(range(32)))]


@pytest.fixture(params=KEYS, ids=["hmac", "ed25519"])
def key(request: pytest.FixtureRequest) -> SigningKey:
    """A key of each kind."""
    made: SigningKey = request.param()
    return made


def test_what_is_signed_is_accepted(key: SigningKey) -> None:
    """For its thread, with its content, and for no other."""
    signer = Signer(key)
    fields = signer.sign(b"t", FIELDS)
    assert fields[:-2] == FIELDS
    assert signer.check(b"t", b"1-0", fields).count == 1
    assert signer.examine(b"u", b"1-0", fields).wrong == FORGED
    assert signer.examine(b"t", b"1-0", FIELDS).wrong == UNSIGNED
    with pytest.raises(SignatureInvalid, match="Entry 1-0 is not signed"):
        signer.check(b"t", b"1-0", FIELDS)


@pytest.mark.parametrize(("life", "part"), [*((LIFE, part) for part in range(8)), *((b"", part) for part in range(6))])
def test_every_part_of_a_seal_is_signed(key: SigningKey, life: bytes, part: int) -> None:
    """Version and life, the key's name, the writer and its count, what it had seen, and the signature itself."""
    signer = Signer(key)
    signer.note(b"t", b"5-0", b"digest", life)
    fields = signer.sign(b"t", FIELDS)
    told = split_counted(fields[-1])
    told[part] = told[part][:-1] + b"7"
    assert signer.examine(b"t", b"1-0", [*FIELDS, b"g", b"".join(map(counted, told))]).wrong == FORGED


OLD = [
    b"12:196ff841af2d8:WWWWWWWW1:13:5-06:digest32:"
    + bytes.fromhex("bc16bea0e80031f47cf4c2271a9eb65cfdaa60b8f3a94a2f130b0bae1680ce6b"),
    b"12:56475aa754638:WWWWWWWW1:13:5-06:digest64:"
    + bytes.fromhex(
        "a547fa5f1dda422ce882a3c22aa9b0dbabf049db22747cace4f5081df3e841761a9d888981994c20fdaaf1495e38ad6aff3067f6d50aee16"
        "80fd2ce690654309"
    ),
]  # fmt: skip


@pytest.mark.parametrize(("made", "seal"), list(zip(KEYS, OLD, strict=True)), ids=["hmac", "ed25519"])
def test_seals_of_version_1_are_accepted_and_made(made: Any, seal: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte for byte as the version before made them, for a life without a mark."""
    monkeypatch.setattr(signing, "token_bytes", lambda count: b"W" * count)
    signer = Signer(made())
    found = signer.check(b"t", b"6-0", [*FIELDS, b"g", seal])
    assert (found.life, found.writer, found.count, found.seen) == (b"", b"WWWWWWWW", 1, b"5-0")
    signer.note(b"t", b"5-0", b"digest", b"")
    assert signer.sign(b"t", FIELDS)[-1] == seal
    assert (life_of(seal), signer.known(b"t").beginning) == (b"", seal[:3])


def test_a_mark_is_drawn_once_for_a_new_thread(key: SigningKey) -> None:
    """Until the thread is deleted, or noted; each seal begins with it."""
    signer = Signer(key)
    first, second = (signer.sign(b"t", FIELDS)[-1] for _ in range(2))
    life = life_of(first)
    assert (len(life), life_of(second)) == (8, life)
    assert first.startswith(signer.known(b"t").beginning)
    signer.note(b"t", b"5-0", b"digest", LIFE)
    assert life_of(signer.sign(b"t", FIELDS)[-1]) == LIFE
    signer.forget(b"t")
    assert life_of(signer.sign(b"t", FIELDS)[-1]) not in (life, LIFE)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (b"1:38:8 bytes!", "a seal of version 3; upgrade this package"),
        (b"1:18:8 bytes!", "a seal of an unknown form"),
        (b"1:20:", "a seal of an unknown form"),
        (b"1:27:7 bytes", "a seal of an unknown form"),
        (b"1:2", "a seal of an unknown form"),
    ],
)
def test_seals_of_other_versions(key: SigningKey, start: bytes, message: str) -> None:
    """A newer version is named, and a mark of another length is none."""
    signer = Signer(key)
    rest = OLD[0]
    found = signer.examine(b"t", b"6-0", [*FIELDS, b"g", start + rest])
    assert (found.wrong, message in found.message) == (FORGED, True), found.message


@given(st.binary(max_size=80))
def test_a_seal_of_any_bytes_is_refused(data: bytes) -> None:
    """And never raises anything else."""
    signer = Signer(SigningKey.hmac(SECRET))
    assert signer.examine(b"t", b"1-0", [*FIELDS, b"g", data]).wrong == FORGED


@given(st.lists(st.tuples(st.binary(max_size=4), st.binary(max_size=8)), max_size=6))
def test_fields_cannot_be_shifted(pairs: list[tuple[bytes, bytes]]) -> None:
    """A signature differs for any other fields, also for the same bytes cut in another way."""
    signer = Signer(SigningKey.hmac(SECRET))
    fields = [part for pair in pairs if pair[0] != b"g" for part in pair]
    signed = signer.sign(b"t", fields)
    assert not signer.examine(b"t", b"1-0", signed).wrong
    for at in range(len(fields) - 1):
        moved = [*fields[:at], fields[at][:-1], fields[at][-1:] + fields[at + 1], *fields[at + 2 :]]
        if moved != fields and b"g" not in moved[::2]:
            assert signer.examine(b"t", b"1-0", [*moved, *signed[-2:]]).wrong == FORGED


def test_a_second_seal_does_not_hide_the_first(key: SigningKey) -> None:
    """It counts as content, which was not signed."""
    signer = Signer(key)
    fields = signer.sign(b"t", FIELDS)
    assert signer.examine(b"t", b"1-0", [*fields, b"g", b"x"]).wrong == FORGED


def test_what_a_writer_has_seen(key: SigningKey) -> None:
    """Is in the next seal of that thread, until the thread is deleted; counts rise over all threads."""
    signer = Signer(key)
    signer.note(b"t", b"5-0", b"digest", LIFE)
    seals = [seal_of(signer.sign(thread, FIELDS))[0] for thread in (b"t", b"u")]
    signer.forget(b"t")
    seals.append(seal_of(signer.sign(b"t", FIELDS))[0])
    assert [(one.seen, one.digest, one.count) for one in seals if one] == [
        (b"5-0", b"digest", 1),
        (b"", b"", 2),
        (b"", b"", 3),
    ]


def test_a_writer_remembers_the_latest_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signer forgets the threads that it noted longest ago, and ignores replies that name no entry."""
    monkeypatch.setattr(signing, "SEEN", 2)
    signer = Signer(SigningKey.hmac(SECRET))
    for thread in (b"t", b"u", b"t", b"v"):
        signer.note(thread, b"5-0", b"digest", LIFE)
    signer.note(b"w", b"", None, LIFE)
    seals = {thread: seal_of(signer.sign(thread, FIELDS))[0] for thread in (b"t", b"u", b"v", b"w")}
    assert {thread for thread, seal in seals.items() if seal and seal.seen} == {b"t", b"v"}


@pytest.mark.server
def test_a_forked_process_is_a_writer_of_its_own() -> None:
    """Else its counts would be used twice, and so would the mark of a thread that is not written yet."""
    signer = Signer(SigningKey.hmac(SECRET))
    life = signer.known(b"t").life
    signer.note(b"u", b"5-0", b"digest", LIFE)

    def sealed() -> bytes:
        seal, _ = seal_of(signer.sign(b"t", FIELDS))
        assert seal is not None
        return seal.writer + seal.life + signer.known(b"u").life

    theirs, mine = in_child(sealed), sealed()
    assert len(theirs) == len(mine) == 24
    assert theirs[:8] != mine[:8]
    assert theirs[8:16] != mine[8:16] == life
    assert theirs[16:] == mine[16:] == LIFE


def test_halves_of_a_key() -> None:
    """A public half, however it is given, verifies what the private one signed, and cannot sign."""
    private = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    pem = private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    public = private.public_key()
    shown = public.public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    signer = Signer(SigningKey.ed25519(pem))
    fields = signer.sign(b"t", FIELDS)
    for given_ in (public, shown, public.public_bytes_raw()):
        half = Signer(SigningKey.ed25519_public(given_))
        assert not half.examine(b"t", b"1-0", fields).wrong
        assert half.key.name == signer.key.name
        with pytest.raises(InvalidArgument, match="cannot sign"):
            half.sign(b"t", FIELDS)
    half_key = signer.key.public()
    assert not half_key.can_sign
    assert half_key.public() is half_key
    with pytest.raises(InvalidArgument, match="public half"):
        SigningKey.hmac(SECRET).public()


@pytest.mark.parametrize("make", [SigningKey.ed25519, SigningKey.ed25519_public])
@pytest.mark.parametrize("wrong", [b"short", b"-----BEGIN NOTHING-----", "text", X25519PrivateKey.generate()])
def test_keys_that_are_none(make: Any, wrong: Any) -> None:
    """Are refused with the remedy."""
    with pytest.raises(InvalidArgument, match="Ed25519"):
        make(wrong)


def test_secrets_that_are_none() -> None:
    """Too short, or no bytes."""
    with pytest.raises(InvalidArgument, match="16 bytes"):
        SigningKey.hmac(b"short")
    with pytest.raises(TypeError, match="bytes"):
        SigningKey.hmac("a secret of sixteen bytes or more")  # type: ignore[arg-type]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """HMAC does without; for Ed25519 the extra is named."""
    for name in list(sys.modules):
        if name.startswith("cryptography"):
            monkeypatch.setitem(sys.modules, name, None)
    assert SigningKey.hmac(SECRET).can_sign
    for make in (SigningKey.ed25519, SigningKey.ed25519_public):
        with pytest.raises(MissingExtra, match=r"\[signing\]"):
            make(SECRET[:32])


def test_keys_by_name() -> None:
    """Accepted keys are distinct, and no name reveals the secret."""
    old, new = SigningKey.hmac(SECRET), SigningKey.hmac(SECRET + b"!")
    assert old.name != new.name
    signed = Signer(old).sign(b"t", FIELDS)
    assert not Signer(new, [old]).examine(b"t", b"1-0", signed).wrong
    assert "which is not accepted" in Signer(new).examine(b"t", b"1-0", signed).message
