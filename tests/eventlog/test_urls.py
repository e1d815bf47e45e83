"""Connection URLs: what each form means, and what is said about those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from eventlog.connect.urls import Address, parse_address
from eventlog.errors import InvalidArgument


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", Address("redis", "single")),
        ("redis://h:7000/3", Address("redis", "single", options={"host": "h", "port": 7000, "db": 3})),
        ("rediss://[::1]:7000", Address("rediss", "single", options={"host": "::1", "port": 7000})),
        (
            "redis://me:p%40ss%2F%3A@h?socket_timeout=2",
            Address(
                "redis", "single", options={"username": "me", "password": "p@ss/:", "host": "h", "socket_timeout": 2.0}
            ),
        ),
        ("unix:///run/r.sock?db=2", Address("unix", "single", options={"path": "/run/r.sock", "db": 2})),
        ("redis://h?decode_responses=false", Address("redis", "single", options={"host": "h"})),
        ("redis+cluster://h1:7000,h2", Address("redis", "cluster", (("h1", 7000), ("h2", 6379)))),
        ("redis+cluster://h1:7000/0", Address("redis", "cluster", (("h1", 7000),))),
        (
            "rediss+cluster://me:p%2Cq@[::1]:7000,[fe80::2]:7001?socket_timeout=2",
            Address(
                "rediss",
                "cluster",
                (("::1", 7000), ("fe80::2", 7001)),
                options={"username": "me", "password": "p,q", "socket_timeout": 2.0},
            ),
        ),
        ("redis+sentinel://h1,h2:7000/primary", Address("redis", "sentinel", (("h1", 26379), ("h2", 7000)), "primary")),
        (
            "rediss+sentinel://:pw@h1/my%20primary/4?sentinel_username=s&sentinel_password=q%26&socket_timeout=2",
            Address(
                "rediss",
                "sentinel",
                (("h1", 26379),),
                "my primary",
                {"password": "pw", "db": 4, "socket_timeout": 2.0},
                {"username": "s", "password": "q&", "socket_timeout": 2.0},
            ),
        ),
    ],
)
def test_forms(url: str, expected: Address) -> None:
    """Every documented form of URL is read, credentials percent-decoded."""
    assert parse_address(url, {}) == expected


def test_the_url_wins_over_options_beside_it() -> None:
    """As in redis-py, an option in the URL is stronger than the same option in the call."""
    assert parse_address("redis://h/3", {"db": 1, "client_name": "n"}).options == {
        "host": "h",
        "db": 3,
        "client_name": "n",
    }


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "has no known scheme; begin it with one of redis://, rediss://"),
        ("localhost:6379", "has no known scheme"),
        ("postgres://h/0", "begins with 'postgres'"),
        ("redis://h:port/0", "port or an option has an impossible value"),
        ("redis://h:99999/0", "port or an option has an impossible value"),
        ("redis://h?socket_timeout=soon", "port or an option has an impossible value"),
        ("unix://?db=1", "names no socket"),
        ("redis+cluster://", "node 1 of the cluster URL is not host:port"),
        ("redis+cluster://h1:7000,h2:port", "node 2 of the cluster URL is not host:port"),
        ("redis+cluster://h1:0", "node 1 of the cluster URL is not host:port"),
        ("redis+cluster://::1:7000", "IPv6 addresses in brackets"),
        ("redis+cluster://h1:7000/2", "a cluster has only database 0"),
        ("redis+cluster://h1:7000?db=2", "a cluster has only database 0"),
        ("redis+sentinel://h1:26379", "names no service"),
        ("redis+sentinel://h1:26379/primary/four", "where db is a number"),
        ("redis+sentinel://h1:26379/primary/1/2", "where db is a number"),
        ("redis://h?decode_responses=true", "leave decode_responses out"),
        ("redis+cluster://h?decode_responses=1", "leave decode_responses out"),
    ],
)
def test_impossible_urls(url: str, message: str) -> None:
    """A URL that cannot be used is refused with its remedy."""
    with pytest.raises(InvalidArgument) as refused:
        parse_address(url, {})
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:s3/cret@h:6379",
        "redis://me:s3#cret@h:6379",
        "redis://:s3?cret@h:6379",
        "redis+cluster://me:s3/cret@h:6379",
        "redis+cluster://me:s3cret@h:port",
        "redis+sentinel://me:s3cret@h:26379",
        "redis+sentinel://me:s3[cret@h:26379/primary",
        "s3cret:x@h://",
    ],
)
def test_no_message_holds_a_password(url: str) -> None:
    """However the URL is wrong, neither the message nor a chained error shows a piece of the password."""
    with pytest.raises(InvalidArgument) as refused:
        parse_address(url, {})
    shown = str(refused.value) + str(refused.value.__cause__)
    assert refused.value.__cause__ is None
    assert "s3" not in shown
    assert "cret" not in shown


def test_repr_hides_credentials() -> None:
    """An address can be logged: its repr holds no credentials."""
    shown = repr(parse_address("redis+sentinel://me:s3cret@h/primary?sentinel_password=t4cret", {}))
    assert "cret" not in shown


@pytest.mark.parametrize(
    "options", [{"decode_responses": True}, {"connection_class": object}, {"connection_pool": object()}]
)
def test_options_that_do_not_go_with_a_url(options: dict[str, Any]) -> None:
    """Options that would damage values, or serve only one driver, are refused."""
    with pytest.raises(InvalidArgument, match="To fix it"):
        parse_address("redis://h", options)


def test_a_url_is_a_string() -> None:
    """Anything but a string is a TypeError that shows what a URL looks like."""
    url: Any = 6379
    with pytest.raises(TypeError, match="redis://localhost:6379/0"):
        parse_address(url, {})
