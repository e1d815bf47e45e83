"""Every error of this project, and the one place where redis-py's errors become ours.

One base, `EventLogError`; below it two branches. `CallerError`: the call can be mended by whoever made it. `ServerError`: the
server, the network or what is stored stands in the way. Each message says what happened, to which thread, and what to do next;
the redis-py error is chained as `__cause__`.
"""

from __future__ import annotations

from asyncio import InvalidStateError

import redis.exceptions as rx

__all__ = [
    "AccessDenied",
    "AuthenticationFailed",
    "BeforeFirstEvent",
    "CallerError",
    "CorruptEntry",
    "EffectRefused",
    "EventGone",
    "EventLogError",
    "ExportUnreadable",
    "FeedClosed",
    "FileTaken",
    "GroupNotFound",
    "HistoryGone",
    "InvalidArgument",
    "LayoutMismatch",
    "LogLost",
    "MissingExtra",
    "NewerSchema",
    "NoSyncConnection",
    "PathInUse",
    "PoolExhausted",
    "PositionLost",
    "PositionTrimmed",
    "SaverClosed",
    "ServerError",
    "ServerFailedCommand",
    "ServerLoading",
    "ServerMisconfigured",
    "ServerOutOfMemory",
    "ServerReadOnly",
    "ServerUnavailable",
    "SignatureInvalid",
    "ThreadBusy",
    "ThreadExists",
    "ThreadNotFound",
    "ValueTooLarge",
    "ValueUnreadable",
    "ValueUnwritable",
    "translate",
]


MOST_WORDS = 300
"""Characters of a message of redis-py that are repeated; the whole is in the cause."""


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


class ValueUnwritable(CallerError, TypeError, ValueError):
    """The serializer cannot write a value; nothing was appended.

    Serializers raise a `TypeError` or a `ValueError` for this, so it is both. The serializer's own error is the `__cause__`.
    """


class LayoutMismatch(CallerError):
    """The prefix was laid out with another number of partitions, or by another layout version."""


class NoSyncConnection(CallerError, InvalidStateError):
    """A sync call needs the event loop that is blocked by it, or one that does not run."""


class SaverClosed(CallerError):
    """The saver was closed, and with it the connections it had opened."""


class FeedClosed(CallerError):
    """The feed was closed, and with it the connections it had opened."""


class EffectRefused(CallerError):
    """The server refused an effect of a consumer group's handler.

    `halfway`: whether others of the same event were carried out before it; then the event is parked at once, since trying it again
    would repeat them. Else nothing was written.
    """

    def __init__(self, message: str, *, halfway: bool = False) -> None:
        super().__init__(message)
        self.halfway = halfway


class GroupNotFound(CallerError, LookupError):
    """The consumer group named is not registered."""


class EventGone(CallerError, LookupError):
    """The event that a pointer of the feed leads to is no longer there.

    `reason`: "pruned" (the thread is there, the event was removed from its log), "expired" or "deleted" (the thread is not there).
    An expired thread counts as deleted once its partition has forgotten it.
    """

    def __init__(self, message: str, reason: str = "deleted") -> None:
        super().__init__(message)
        self.reason = reason


class BeforeFirstEvent(CallerError, LookupError):
    """The thread's state was asked for as of a moment before it began."""


class PositionTrimmed(CallerError, LookupError):
    """What followed a position of the feed was trimmed before it was read."""


class HistoryGone(CallerError, LookupError):
    """The history of a thread up to the point asked for is no longer whole: some of it was pruned since."""


class ExportUnreadable(CallerError, ValueError):
    """A file is not an export that can be read, whole and unchanged; nothing of it was put in place.

    `reason`: "truncated", "foreign" (no export), "newer" (of a version that this package does not know) or "damaged".
    """

    def __init__(self, message: str, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


class FileTaken(CallerError, FileExistsError):
    """The file that was to be written is there already, or is being written by another process; it is left as it is."""


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


class PositionLost(ServerError):
    """A position is ahead of the feed: it was read from a server that had more, and failed over before a replica had it too."""


class CorruptEntry(ServerError, ValueError):
    """A stream entry is not what this project writes; the message names thread and entry id."""


class SignatureInvalid(ServerError, ValueError):
    """An event is not signed, or not by a key that is accepted; nothing of it was deserialized."""


class ValueUnreadable(ServerError, ValueError):
    """The serializer cannot read a value: another key, another serializer, or a type that cannot be imported here."""


class NewerSchema(CorruptEntry):
    """A stream entry was written by a newer version of this project."""


_PRIMARY = "connect to the primary (through Sentinel or the cluster, clients follow a failover)"
_ROOM = "raise maxmemory, delete threads, or set a ttl"
_RIGHTS = "give the user the rights listed under 'Access rights' in OPERATIONS.md"
_LOADED = "wait until the server has loaded its data, then call again"
_SLOTS = "wait for the cluster to cover all slots again"
_PASSWORD = "check user name and password, e.g. redis://user:password@host"  # noqa: S105
_POOL = "raise the pool's max_connections, or make fewer calls at once"
_REACH = "check that the server runs and the address is right"

_RULES: tuple[tuple[type[Exception], str, type[EventLogError], str], ...] = (
    # redis-py's type, words of its message, ours, what to do. The first that fits counts: redis-py derives most of its types
    # from ConnectionError or ResponseError, and a script's error has the words of the command's inside its own.
    (
        rx.RedisClusterException,
        "Cluster mode is not enabled",
        ServerMisconfigured,
        "the server is no cluster (use redis://), or the user lacks CLUSTER SLOTS",
    ),
    (rx.RedisClusterException, "", ServerUnavailable, "check that the cluster's nodes run and cover all slots"),
    (rx.MaxConnectionsError, "", PoolExhausted, _POOL),
    (rx.ConnectionError, "Too many connections", PoolExhausted, _POOL),
    (rx.ConnectionError, "No connection available", PoolExhausted, _POOL),
    (rx.BusyLoadingError, "", ServerLoading, _LOADED),
    (rx.AuthenticationError, "", AuthenticationFailed, _PASSWORD),
    (rx.AuthorizationError, "", AuthenticationFailed, _PASSWORD),
    (rx.NoPermissionError, "", AccessDenied, _RIGHTS),
    (rx.ReadOnlyError, "", ServerReadOnly, _PRIMARY),
    (rx.OutOfMemoryError, "", ServerOutOfMemory, _ROOM),
    (
        rx.MovedError,
        "",
        ServerMisconfigured,
        "the server is a node of a cluster; use redis+cluster://host:port or RedisCluster",
    ),
    (rx.ClusterDownError, "", ServerUnavailable, _SLOTS),
    (rx.ClusterError, "", ServerUnavailable, "a slot is moving between nodes, or a node failing over; call again"),
    (rx.ResponseError, "UNBLOCKED", ServerUnavailable, _PRIMARY),
    (rx.ResponseError, "OOM", ServerOutOfMemory, _ROOM),
    (rx.ResponseError, "READONLY", ServerReadOnly, _PRIMARY),
    (rx.ResponseError, "LOADING", ServerLoading, _LOADED),
    (rx.ResponseError, "MASTERDOWN", ServerUnavailable, "connect to the primary"),
    (rx.ResponseError, "MISCONF", ServerMisconfigured, "the server cannot persist; mend its disk or its save settings"),
    (rx.ResponseError, "NOREPLICAS", ServerUnavailable, "bring back the replicas that min-replicas-to-write asks for"),
    (rx.ResponseError, "NOPERM", AccessDenied, _RIGHTS),
    (rx.ResponseError, "The user executing the script", AccessDenied, _RIGHTS),
    (rx.ResponseError, "ACL failure", AccessDenied, _RIGHTS),
    (rx.ResponseError, "NOAUTH", AuthenticationFailed, _PASSWORD),
    (rx.ResponseError, "HELLO must be called", AuthenticationFailed, _PASSWORD),
    (rx.ResponseError, "WRONGPASS", AuthenticationFailed, _PASSWORD),
    (rx.ResponseError, "CLUSTERDOWN", ServerUnavailable, _SLOTS),
    (rx.ResponseError, "TRYAGAIN", ServerUnavailable, "a slot is moving between nodes; call again"),
    (rx.ResponseError, "BUSY", ServerUnavailable, "another script blocks the server; wait, or SCRIPT KILL it"),
    (
        rx.ResponseError,
        "invalid bulk length",
        ValueTooLarge,
        "raise the server's proto-max-bulk-len, or keep large data elsewhere",
    ),
    (rx.ResponseError, "WRONGTYPE", CorruptEntry, "a key holds something else; give the saver a prefix of its own"),
    (rx.ResponseError, "unknown command 'EVAL", ServerMisconfigured, "a Sentinel answers there; use redis+sentinel://"),
    (rx.ResponseError, "unknown command 'SENTINEL", ServerMisconfigured, "no Sentinel answers there; use redis://"),
    (rx.ResponseError, "DB index is out of range", ServerMisconfigured, "name a database that the server has"),
    (rx.InvalidResponse, "", ServerMisconfigured, "check that host and port are those of a Redis server"),
    (rx.ConnectionError, "Protocol Error", ServerMisconfigured, "check that host and port are those of a Redis server"),
    (
        rx.ConnectionError,
        "No master found",
        ServerUnavailable,
        "check that the Sentinels run, and the name of the service",
    ),
    (
        rx.TimeoutError,
        "",
        ServerUnavailable,
        "check the server's load, socket_timeout, and whether it speaks TLS (rediss://)",
    ),
    (rx.ConnectionError, "", ServerUnavailable, _REACH),
    (OSError, "", ServerUnavailable, _REACH),
    (Exception, "", ServerFailedCommand, "look at the server's log, and at the cause of this error"),
)


def is_exhausted(error: Exception) -> bool:
    """Whether a pool that does not wait itself has no connection left; not all of redis-py's say so by type."""
    return isinstance(error, rx.MaxConnectionsError) or "Too many connections" in str(error)


def translate(error: Exception, subject: str) -> EventLogError:
    """The typed error for one of redis-py's or of the socket's. `subject` names what was being done, e.g. "thread '42'"."""
    if isinstance(error.__cause__, rx.AuthenticationError):  # redis-py's asyncio wraps it
        error = error.__cause__
    words = str(error) or type(error).__name__
    kind, remedy = next(
        (kind, remedy) for type_, word, kind, remedy in _RULES if isinstance(error, type_) and word in words
    )
    told = words if len(words) <= MOST_WORDS else words[:MOST_WORDS] + "..."
    return kind(f"{subject}: {told.rstrip('.')}. To fix it: {remedy}.")
