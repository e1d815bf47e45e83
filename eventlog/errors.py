"""Every error of this project, and the one place where redis-py's errors become ours.

One base, `EventLogError`; below it two branches. `CallerError`: the call can be mended by whoever made it. `ServerError`: the
server, the network or what is stored stands in the way. Each message says what happened, to which thread, and what to do next;
the redis-py error is chained as `__cause__`.
"""

from __future__ import annotations

import redis.exceptions as rx

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "CallerError",
    "CorruptEntry",
    "EventLogError",
    "InvalidArgument",
    "LayoutMismatch",
    "LogLost",
    "MissingExtra",
    "NewerSchema",
    "PathInUse",
    "PoolExhausted",
    "ServerError",
    "ServerFailedCommand",
    "ServerLoading",
    "ServerMisconfigured",
    "ServerOutOfMemory",
    "ServerReadOnly",
    "ServerUnavailable",
    "ThreadBusy",
    "ThreadExists",
    "ThreadNotFound",
    "ValueTooLarge",
    "ValueUnreadable",
    "ValueUnwritable",
    "translate",
]


class EventLogError(Exception):
    """Base of every error this project raises on purpose."""


class CallerError(EventLogError):
    """The call cannot be carried out as it was made."""


class InvalidArgument(CallerError, ValueError):
    """An argument has the right type and an impossible value."""


class ThreadNotFound(CallerError, LookupError):
    """The thread named has no log."""


class ThreadExists(CallerError):
    """The target thread already has a log, which is not overwritten."""


class ThreadBusy(CallerError):
    """Other writers kept changing the thread while it was being rewritten."""


class ValueTooLarge(CallerError, ValueError):
    """A value is larger than the server takes; nothing was written."""


class ValueUnwritable(CallerError, TypeError):
    """The serializer cannot write a value; nothing was appended."""


class LayoutMismatch(CallerError):
    """The prefix was laid out with another number of partitions, or by another layout version."""


class PathInUse(CallerError):
    """An embedded server already runs on this path."""


class MissingExtra(CallerError, ImportError):
    """An optional extra of this package is not installed."""


class ServerError(EventLogError):
    """The server, the network, or what is stored stands in the way."""


class ServerUnavailable(ServerError, ConnectionError):
    """The server cannot be reached, did not answer in time, or hangs up."""


class PoolExhausted(ServerUnavailable):
    """No connection of the pool came free in time."""


class ServerLoading(ServerError):
    """The server is still loading its data."""


class ServerReadOnly(ServerError):
    """The server is a read-only replica."""


class ServerOutOfMemory(ServerError):
    """The server is at `maxmemory` and takes no writes."""


class ServerMisconfigured(ServerError):
    """The server's settings would lose data, or its version is too old."""


class ServerFailedCommand(ServerError):
    """The server answered with an error that has no class of its own here."""


class AuthenticationFailed(ServerError):
    """The server refused the credentials."""


class AccessDenied(ServerError):
    """The server's user may not run a command or touch a key."""


class LogLost(ServerError):
    """The server knows the thread, but its log is gone: evicted, expired by hand, or deleted."""


class CorruptEntry(ServerError, ValueError):
    """A stream entry is not what this project writes; the message names thread and entry id."""


class ValueUnreadable(ServerError, ValueError):
    """The serializer cannot read a value: another key, another serializer, or a type that cannot be imported here."""


class NewerSchema(CorruptEntry):
    """A stream entry was written by a newer version of this project."""


_RIGHTS = "give the user the rights listed under 'Access rights' in the README"

_BY_TYPE: tuple[tuple[type[Exception], type[EventLogError], str], ...] = (
    # Order matters: redis-py derives most of these from ConnectionError or ResponseError.
    (rx.MaxConnectionsError, PoolExhausted, "raise the pool's max_connections or make fewer calls at once"),
    (rx.BusyLoadingError, ServerLoading, "wait until the server has loaded its data, then call again"),
    (rx.AuthenticationError, AuthenticationFailed, "check user name and password"),
    (rx.AuthorizationError, AuthenticationFailed, "check user name and password"),
    (
        rx.NoPermissionError,
        AccessDenied,
        _RIGHTS,
    ),
    (
        rx.ReadOnlyError,
        ServerReadOnly,
        "connect to the primary (through Sentinel or the cluster, clients follow a failover)",
    ),
    (rx.OutOfMemoryError, ServerOutOfMemory, "raise maxmemory, delete threads, or set a ttl"),
    (
        rx.MovedError,
        ServerMisconfigured,
        "the server is a node of a cluster; use redis+cluster://host:port or a RedisCluster",
    ),
    (rx.ClusterDownError, ServerUnavailable, "wait for the cluster to cover all slots again"),
    (rx.TimeoutError, ServerUnavailable, "check the server's load and the client's socket_timeout"),
    (rx.ConnectionError, ServerUnavailable, "check that the server runs and the address is right"),
)

_BY_WORD: tuple[tuple[str, type[EventLogError], str], ...] = (
    ("OOM", ServerOutOfMemory, "raise maxmemory, delete threads, or set a ttl"),
    ("READONLY", ServerReadOnly, "connect to the primary (through Sentinel or the cluster, clients follow a failover)"),
    ("LOADING", ServerLoading, "wait until the server has loaded its data, then call again"),
    ("MASTERDOWN", ServerUnavailable, "connect to the primary"),
    ("MISCONF", ServerMisconfigured, "the server cannot persist; mend its disk or its save settings"),
    ("NOREPLICAS", ServerUnavailable, "bring back the replicas that min-replicas-to-write asks for"),
    ("NOPERM", AccessDenied, _RIGHTS),
    ("The user executing the script", AccessDenied, _RIGHTS),
    ("ACL failure", AccessDenied, _RIGHTS),
    ("NOAUTH", AuthenticationFailed, "pass user name and password"),
    ("WRONGPASS", AuthenticationFailed, "check user name and password"),
    ("CLUSTERDOWN", ServerUnavailable, "wait for the cluster to cover all slots again"),
    ("TRYAGAIN", ServerUnavailable, "a slot is moving between nodes; call again"),
    ("BUSY", ServerUnavailable, "another script blocks the server; wait or SCRIPT KILL it"),
    ("WRONGTYPE", CorruptEntry, "a key of this prefix holds something else; give the saver a prefix of its own"),
)


_EXHAUSTED = ("Too many connections", "No connection available")
"""What redis-py's pools say when they are exhausted: not all of them raise MaxConnectionsError."""


def is_exhausted(error: Exception) -> bool:
    """Whether a pool that does not wait has no connection left."""
    return isinstance(error, rx.MaxConnectionsError) or (
        isinstance(error, rx.ConnectionError) and _EXHAUSTED[0] in str(error)
    )


def translate(error: Exception, subject: str) -> EventLogError:
    """The typed error for a redis-py or socket error.

    `subject` names what was being done, e.g. "thread '42'". The caller chains the original to it.
    Scripts wrap a command's error in their own words, so the words are searched as well as the types.
    """
    words = str(error).rstrip(".")
    if isinstance(error, rx.RedisClusterException):  # no RedisError: the cluster cannot be reached, or lacks a slot
        return ServerUnavailable(
            f"{subject}: {words}. To mend it: check that the cluster's nodes run and cover all slots."
        )
    if isinstance(error.__cause__, rx.AuthenticationError):  # redis-py's asyncio wraps it
        error = error.__cause__
    if isinstance(error, rx.ConnectionError) and any(word in words for word in _EXHAUSTED):
        return PoolExhausted(
            f"{subject}: {words}. To mend it: raise the pool's max_connections or make fewer calls at once."
        )
    if isinstance(error, rx.ResponseError):
        for word, kind, remedy in _BY_WORD:
            if word in words:
                return kind(f"{subject}: {words}. To mend it: {remedy}.")
    for redis_kind, kind, remedy in _BY_TYPE:
        if isinstance(error, redis_kind):
            return kind(f"{subject}: {words or type(error).__name__}. To mend it: {remedy}.")
    if isinstance(error, OSError):
        return ServerUnavailable(
            f"{subject}: {error!r}. To mend it: check that the server runs and the address is right."
        )
    return ServerFailedCommand(f"{subject}: {type(error).__name__}: {words}.")
