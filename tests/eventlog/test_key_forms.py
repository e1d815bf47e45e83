"""Key files are not secrets: a signature with bytes that others know proves nothing."""

from __future__ import annotations

import json
from base64 import b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable
from secrets import token_bytes, token_hex, token_urlsafe
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from hypothesis import example, given
from hypothesis import strategies as st

from eventlog.errors import InvalidArgument
from eventlog.key_forms import key_form
from eventlog.signing import Signer, SigningKey
from saver import RedisStreamSaver

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RAW = PRIVATE.public_key().public_bytes_raw()
ELLIPTIC, RSA = generate_private_key(SECP256R1()), generate_rsa(65537, 2048)
PUBLIC, HIDDEN, NONE = forms.PublicFormat, forms.PrivateFormat, forms.NoEncryption()
PEM, DER = forms.Encoding.PEM, forms.Encoding.DER
JWK = json.dumps({"kty": "OKP", "crv": "Ed25519", "x": urlsafe_b64encode(RAW).decode()}).encode()
FILES = {
    "PEM, public": PRIVATE.public_key().public_bytes(PEM, PUBLIC.SubjectPublicKeyInfo),
    "PEM, private": PRIVATE.private_bytes(PEM, HIDDEN.PKCS8, NONE),
    "PEM, indented": b"\xef\xbb\xbf\n  " + RSA.public_key().public_bytes(PEM, PUBLIC.PKCS1),
    "PEM, of OpenSSH": PRIVATE.private_bytes(PEM, HIDDEN.OpenSSH, NONE),
    "DER, public": PRIVATE.public_key().public_bytes(DER, PUBLIC.SubjectPublicKeyInfo),
    "DER, private": PRIVATE.private_bytes(DER, HIDDEN.PKCS8, NONE),
    "DER, elliptic": ELLIPTIC.public_key().public_bytes(DER, PUBLIC.SubjectPublicKeyInfo),
    "DER, elliptic private": ELLIPTIC.private_bytes(DER, HIDDEN.TraditionalOpenSSL, NONE),
    "DER, RSA": RSA.public_key().public_bytes(DER, PUBLIC.PKCS1),
    "DER, RSA private": RSA.private_bytes(DER, HIDDEN.TraditionalOpenSSL, NONE),
    "SSH": PRIVATE.public_key().public_bytes(forms.Encoding.OpenSSH, PUBLIC.OpenSSH),
    "SSH, of a host": b"example.org " + PRIVATE.public_key().public_bytes(forms.Encoding.OpenSSH, PUBLIC.OpenSSH),
    "SSH, inner": b"\0\0\0\x0bssh-ed25519\0\0\0 " + RAW,
    "JWK": JWK,
    "JWK, a set": b'\n{"keys": [' + JWK + b"]}",
    "JWK, a list": b"[" + JWK + b"]",
}
ENCODINGS: list[Callable[[bytes], bytes]] = [
    bytes,
    b64encode,
    lambda data: urlsafe_b64encode(data).rstrip(b"="),
    encodebytes,  # in lines
    lambda data: data.hex().encode(),
    lambda data: b64encode(b64encode(data)),
]


@pytest.mark.parametrize("encode", ENCODINGS)
@pytest.mark.parametrize("kind", FILES)
def test_key_files_are_no_secrets(kind: str, encode: Callable[[bytes], bytes]) -> None:
    """Each form of a key is refused in each encoding; the error says what is expected, and shows no byte of the key."""
    given_ = encode(FILES[kind])
    for make in (
        SigningKey.hmac,
        lambda data: RedisStreamSaver.from_conn_string("redis://localhost", signing_key=data),
    ):
        with pytest.raises(InvalidArgument, match=r"SigningKey\.ed25519\(private\).*token_bytes\(32\)") as caught:
            make(given_)
        assert f"in the form {kind.split(',', maxsplit=1)[0]}" in str(caught.value)
        assert given_[:24].decode(errors="replace") not in str(caught.value)


@given(st.binary(min_size=16, max_size=80))
@example(b"0" * 32)
@example(b"{" + b" " * 20)
@example(b"[" * 5000)
@example(b"\x30\x1e" + b"\x05\x00" * 15)
@example(b"\x30\x84\xff\xff\xff\xff" + b"\x00" * 20)
@example(b"\x30")
@example(b'["text", "that is long"]')
@example(b"abcdefghijklmnopq")
def test_other_bytes_are_secrets(data: bytes) -> None:
    """Bytes of no form are accepted, whatever they begin with."""
    assert key_form(data) is None


def test_random_secrets() -> None:
    """Secrets as people make them are accepted."""
    for _ in range(3000):
        for secret in (token_bytes(32), token_hex(32).encode(), token_urlsafe(32).encode(), b64encode(token_bytes(48))):
            assert key_form(secret) is None


@pytest.mark.parametrize("encode", ENCODINGS[:5])
def test_a_public_half_is_no_secret(encode: Callable[[bytes], bytes]) -> None:
    """A raw public key looks like any secret; beside its own key it is refused, on whichever side it stands."""
    secret, others = SigningKey.hmac(encode(RAW)), [SigningKey.ed25519(PRIVATE), SigningKey.ed25519_public(RAW)]
    for other in others:
        for key, accepted in ((secret, other), (other, secret)):
            with pytest.raises(InvalidArgument, match=f"public half of key '{other.name}'.*token_bytes"):
                Signer(key, [accepted])
    Signer(secret, [SigningKey.ed25519(Ed25519PrivateKey.generate())])


def test_a_log_shows_whose_public_half_a_secret_is() -> None:
    """A reader that was given the raw public half as a secret learns what to pass."""
    fields = Signer(SigningKey.ed25519(PRIVATE)).sign(b"t", [b"k", b"v"])
    found = Signer(SigningKey.hmac(RAW)).examine(b"t", b"1-0", fields)
    assert "public half was passed as a secret" in found.message
    assert "ed25519_public(public)" in found.message


@pytest.mark.parametrize("options", [{"signing_key": "text"}, {"signing_key": b"0" * 32, "accepted_keys": [b"1" * 32]}])
def test_keys_of_a_wrong_type(options: Any) -> None:
    """A saver takes keys that were made with their kind, since bytes alone do not tell it."""
    with pytest.raises(TypeError, match="must be a SigningKey"):
        RedisStreamSaver.from_conn_string("redis://localhost", **options)
