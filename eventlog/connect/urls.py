"""Connection URLs are parsed without opening a connection.

    redis://[user:password@]host[:port][/db][?options]      one server; also rediss:// (TLS)
    unix://[user:password@]/path/to/socket[?db=0&options]   one server on a Unix socket
    redis+cluster://[user:password@]h1:p1,h2:p2[?options]   a cluster; also rediss+cluster://
    redis+sentinel://[user:password@]h1:p1,h2:p2/service[/db][?options]   behind Sentinel; also rediss+sentinel://

The first two forms are redis-py's own (`redis.Redis.from_url`), and so are the options. If an option is both in the URL
and in the call, the URL wins, as in redis-py. Options that begin with `sentinel_` (`sentinel_username`,
`sentinel_password`) are for the Sentinels. IPv6 addresses are in brackets; credentials are percent-encoded.

A message never quotes a part of the URL that could contain a password. A password that is not percent-encoded can be in
any part.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import unquote

import redis.connection

from eventlog.errors import InvalidArgument

__all__ = ["Address", "Deployment", "Wire", "parse_address"]

Wire = Literal["redis", "rediss", "unix"]
Deployment = Literal["single", "cluster", "sentinel"]

_SCHEMES: Mapping[str, tuple[Wire, Deployment]] = {
    "redis": ("redis", "single"),
    "rediss": ("rediss", "single"),
    "unix": ("unix", "single"),
    "redis+cluster": ("redis", "cluster"),
    "rediss+cluster": ("rediss", "cluster"),
    "redis+sentinel": ("redis", "sentinel"),
    "rediss+sentinel": ("rediss", "sentinel"),
}
_parse_url: Callable[[str], Mapping[str, Any]] = redis.connection.parse_url
_DEFAULT_PORT: Mapping[Deployment, int] = {"cluster": 6379, "sentinel": 26379}
_NODE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:@\s]+)(?::(?P<port>[0-9]{1,5}))?")
_REST = re.compile(r"(?P<authority>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?")
_FALSE = frozenset({"", "0", "f", "false", "n", "no"})
_ENCODE = "percent-encode special characters in user name and password (urllib.parse.quote(text, safe=''))"


@dataclass(frozen=True)
class Address:
    """The address of a server, and the options for its clients.

    `nodes` and `service` are empty for a single server, whose host, port or path is in `options`.
    """

    wire: Wire
    deployment: Deployment
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


def parse_address(url: str, client_options: Mapping[str, Any]) -> Address:
    """The address in `url`, merged with `client_options`; the URL wins.

    Raises TypeError if the URL is not a string, and InvalidArgument if it is not usable.
    """
    if not isinstance(url, str):
        raise TypeError(
            f"the connection URL must be a string such as 'redis://localhost:6379/0', not {type(url).__name__}"
        )
    scheme, separator, rest = url.partition("://")
    wire, deployment = _known_scheme(scheme if separator else "")
    if deployment == "single":
        _check_database(url)
        return Address(wire, deployment, options=_options(url, client_options))
    return _many_nodes(wire, deployment, rest, client_options)


def _check_database(url: str) -> None:
    """Refuses a database that is not a number, which redis-py would read as 0."""
    scheme, _, rest = url.partition("://")
    database = rest.partition("?")[0].partition("/")[2].strip("/")
    if scheme != "unix" and database and not database.isdigit():
        raise InvalidArgument(
            "the connection URL names a database that is not a number. To fix it: end it with a number, e.g. redis://localhost:6379/0."
        )


def _known_scheme(scheme: str) -> tuple[Wire, Deployment]:
    known = _SCHEMES.get(scheme)
    if known is None:
        named = (
            f"begins with {scheme!r}" if re.fullmatch(r"[A-Za-z][A-Za-z0-9+]{0,19}", scheme) else "has no known scheme"
        )
        raise InvalidArgument(
            f"the connection URL {named}; begin it with one of {', '.join(f'{name}://' for name in _SCHEMES)}."
        )
    return known


def _many_nodes(wire: Wire, deployment: Deployment, rest: str, client_options: Mapping[str, Any]) -> Address:
    parts = cast("re.Match[str]", _REST.match(rest))
    credentials, at, hosts = parts["authority"].rpartition("@")
    nodes = tuple(_node(text, number, deployment) for number, text in enumerate(hosts.split(","), start=1))
    options = _options(f"redis://{credentials}{at}localhost?{parts['query'] or ''}", client_options)
    for name in ("host", "port", "path"):
        options.pop(name, None)
    segments = [unquote(segment) for segment in parts["path"].split("/") if segment]
    if deployment == "cluster":
        _only_database_zero(segments, options)
        return Address(wire, deployment, nodes, options=options)
    return _behind_sentinel(wire, nodes, segments, options)


def _node(text: str, number: int, deployment: Deployment) -> tuple[str, int]:
    found = _NODE.fullmatch(text)
    port = int(found["port"] or _DEFAULT_PORT[deployment]) if found else 0
    if found is None or not 0 < port < 65536:
        raise InvalidArgument(
            f"node {number} of the {deployment} URL is not host:port. To fix it: write the nodes as host1:port1,host2:port2, "
            f"IPv6 addresses in brackets, and {_ENCODE}."
        )
    return unquote(found["host"]).strip("[]"), port


def _only_database_zero(segments: list[str], options: dict[str, Any]) -> None:
    if segments not in ([], ["0"]) or options.pop("db", 0) not in (0, "0", None):
        raise InvalidArgument("a cluster has only database 0. To fix it: remove the database (or path) from the URL.")


def _behind_sentinel(
    wire: Wire, nodes: tuple[tuple[str, int], ...], segments: list[str], options: dict[str, Any]
) -> Address:
    if not segments:
        raise InvalidArgument(
            "the Sentinel URL names no service. To fix it: write the Sentinels' name of the primary after the nodes, "
            "as in redis+sentinel://host:26379/mymaster."
        )
    service, *database = segments
    if len(database) > 1 or not all(text.isascii() and text.isdigit() for text in database):
        raise InvalidArgument("the path of the Sentinel URL is not /service or /service/db, where db is a number.")
    if database:
        options.setdefault("db", int(database[0]))
    own = {name.removeprefix("sentinel_"): options.pop(name) for name in list(options) if name.startswith("sentinel_")}
    shared = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl_"))}
    return Address(wire, "sentinel", nodes, service, options, {**shared, **own})


def _options(url: str, client_options: Mapping[str, Any]) -> dict[str, Any]:
    options = {**client_options, **_url_options(url)}
    for name in ("connection_class", "connection_pool"):
        if name in options:
            raise InvalidArgument(
                f"{name} does not work with a connection URL, which opens sync and asyncio clients. To fix it: make the "
                "clients yourself and pass them as sync_connection and async_connection."
            )
    decode = options.pop("decode_responses", False)
    if decode and str(decode).lower() not in _FALSE:
        raise InvalidArgument(
            "decode_responses is on, but stored values are bytes. To fix it: leave decode_responses out."
        )
    return options


def _url_options(url: str) -> dict[str, Any]:
    try:
        options: dict[str, Any] = dict(_parse_url(url))
    except ValueError:
        # Not chained: urllib quotes the text that it reads as a port, which may be a password.
        raise InvalidArgument(
            "the connection URL cannot be read: its port or an option has an impossible value. "
            f"To fix it: check them, and {_ENCODE}."
        ) from None
    kind = options.pop("connection_class", None)
    if kind is not None and kind.__name__.startswith("Unix") and not options.get("path"):
        raise InvalidArgument("the unix:// URL names no socket. To fix it: write it as unix:///path/to/socket?db=0.")
    return options
