"""The options of a saver, and the operations that follow from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from typing_extensions import TypedDict

from eventlog.codec import NEVER
from eventlog.connect.connections import Connections
from eventlog.errors import InvalidArgument
from eventlog.feed.trimming import Retention
from eventlog.keys import PARTITIONS, PREFIX, Keyspace
from eventlog.limits import Limits
from eventlog.signing import Signer, SigningKey
from projections.values.cache import CACHE_BYTES, COMPRESS_ABOVE, ValueCache
from saver.configs import whole_number
from saver.operations import Operations
from saver.serializer import StrictSerializer
from saver.ttl import TimeToLive

__all__ = ["SaverOptions", "operations_of", "serializer_of"]


class SaverOptions(TypedDict, total=False):
    """The keyword options of `RedisStreamSaver`, whose docstring explains them."""

    prefix: str
    partitions: int
    serde: SerializerProtocol | None
    trust_types: bool
    accept_plaintext: bool
    ttl: float | Mapping[str, Any] | None
    cache_bytes: int
    compress_above: int | None
    feed_retention: timedelta | int | Mapping[str, Any] | None
    signing_key: SigningKey | bytes | None
    accepted_keys: Iterable[SigningKey]
    limits: Limits


def operations_of(connections: Connections, options: SaverOptions) -> Operations:
    """Returns the operations of a saver, which run on `connections`. Raises `TypeError` or `InvalidArgument`."""
    known = SaverOptions.__annotations__
    if unknown := sorted(options.keys() - known):
        raise TypeError(f"Unknown options: {', '.join(unknown)}. A saver takes {', '.join(known)}.")
    signer = _signer_of(options.get("signing_key"), options.get("accepted_keys", ()))
    limits = options.get("limits", Limits())
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be Limits, not {type(limits).__name__}; pass e.g. Limits(id_bytes=100_000).")
    return Operations(
        connections,
        Keyspace(options.get("prefix", PREFIX), options.get("partitions", PARTITIONS), signer, limits),
        TimeToLive.of(options.get("ttl")),
        _cache_of(options.get("cache_bytes", CACHE_BYTES), options.get("compress_above", COMPRESS_ABOVE)),
        Retention.of(options.get("feed_retention")),
        accept_plaintext=_flag(options.get("accept_plaintext", False), "accept_plaintext"),
    )


def serializer_of(options: SaverOptions) -> SerializerProtocol:
    """Returns the serializer of a saver: the caller's own, or one for the types of `trust_types`.

    Raises `TypeError` or `InvalidArgument`.
    """
    serde = options.get("serde")
    trusts = _flag(options.get("trust_types", False), "trust_types")
    if serde is None:
        return JsonPlusSerializer(allowed_msgpack_modules=True) if trusts else StrictSerializer()
    if trusts:
        raise InvalidArgument(
            "trust_types goes with the saver's own serializer; a serde of yours decides itself what it trusts."
        )
    if not (hasattr(serde, "dumps_typed") or hasattr(serde, "dumps")):
        raise TypeError(f"serde must be a serializer (dumps_typed and loads_typed), not {type(serde).__name__}.")
    return serde


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r:.80}.")
    return value


def _cache_of(cache_bytes: int, compress_above: int | None) -> ValueCache:
    bounds = {"cache_bytes": cache_bytes, "compress_above": NEVER if compress_above is None else compress_above}
    for name, value in bounds.items():
        if whole_number(value, name) < 0:
            raise InvalidArgument(f"{name} must be 0 or more bytes, not {value}.")
    return ValueCache(*bounds.values())


def _signer_of(key: SigningKey | bytes | None, accepted: Iterable[SigningKey]) -> Signer | None:
    accepted = list(accepted)
    if key is not None:
        key = SigningKey.hmac(key) if isinstance(key, (bytes, bytearray)) else key
        for name, one in (("signing_key", key), *(("each of accepted_keys", one) for one in accepted)):
            if not isinstance(one, SigningKey):
                raise TypeError(
                    f"{name} must be a SigningKey, not {type(one).__name__}; make one with SigningKey.ed25519 or hmac."
                )
        return Signer(key, accepted)
    if accepted:
        raise InvalidArgument("accepted_keys go with a signing_key; an auditor passes a public half as signing_key.")
    return None
