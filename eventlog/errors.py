"""All errors of this project, and the translation of redis-py's errors.

`EventLogError` is the base of two branches. A caller can fix the cause of a `CallerError`. The cause of a `ServerError`
lies in the server, the network, or the stored data. Each message says what happened, to which thread, and what to do
next. The error of redis-py is chained as `__cause__`.
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
    "OverLimit",
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
    "TypeNotAllowed",
    "ValueNotEncrypted",
    "ValueTooLarge",
    "ValueUnreadable",
    "ValueUnwritable",
]

MOST_QUOTED = 300
"""Characters of redis-py's message that ours quotes; the cause has the whole message."""


class EventLogError(Exception):
    """The base of all errors of this project."""


class CallerError(EventLogError):
    """The call was impossible; change the call and repeat it."""


class InvalidArgument(CallerError, ValueError):
    """An argument has the right type but an impossible value; pass another value."""


class OverLimit(InvalidArgument):
    """Stored data or an id is above a limit; raise it if you trust the data.

    The message has the size, the limit and its setting. No memory was taken for the data.
    """


class ThreadNotFound(CallerError, LookupError):
    """The thread has no log; check its id and the prefix."""


class ThreadExists(CallerError):
    """The target thread already has a log; choose another target or delete it first."""


class ThreadBusy(CallerError):
    """Other writers kept changing the thread during a rewrite; repeat the call later."""


class ValueTooLarge(CallerError, ValueError):
    """A value is too large for the server, and nothing was written; make it smaller."""


class ValueUnwritable(CallerError, TypeError, ValueError):
    """The serializer cannot write a value, and nothing was appended; change the value.

    Serializers raise a `TypeError` or a `ValueError` in this case, so this class is both. The serializer's own error is
    the `__cause__`.
    """


class LayoutMismatch(CallerError):
    """The prefix has another layout; pass its number of partitions, or another prefix."""


class NoSyncConnection(CallerError, InvalidStateError):
    """A sync call has no usable connection; await the async method, or pass one."""


class SaverClosed(CallerError):
    """The saver and the connections that it opened are closed; open a new saver."""


class FeedClosed(CallerError):
    """The feed and the connections that it opened are closed; open a new feed."""


class EffectRefused(CallerError):
    """The server refused an effect of a consumer group's handler; fix the effect.

    `halfway` tells whether other effects of the event were carried out before it. If so, the event is parked at once,
    since another attempt would repeat them. Otherwise nothing was written.
    """

    def __init__(self, message: str, *, halfway: bool = False) -> None:
        super().__init__(message)
        self.halfway = halfway


class GroupNotFound(CallerError, LookupError):
    """The consumer group is not registered; check its name, or register it."""


class EventGone(CallerError, LookupError):
    """The event of a feed's pointer no longer exists; skip the pointer.

    `reason` is "pruned" if the thread exists without the event, otherwise "expired" or "deleted". An expired thread
    counts as deleted once its partition has forgotten it. `thread_id` and `event_id` name the event of a pointer that was
    loaded; they are None where no pointer was.
    """

    def __init__(
        self, message: str, reason: str = "deleted", *, thread_id: str | None = None, event_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.thread_id = thread_id
        self.event_id = event_id


class BeforeFirstEvent(CallerError, LookupError):
    """The requested moment is before the thread's first event; ask for a later one."""


class PositionTrimmed(CallerError, LookupError):
    """Entries after a position of the feed were trimmed; start from a later position."""


class HistoryGone(CallerError, LookupError):
    """A removal took history before the requested point; ask for a later point."""


class ExportUnreadable(CallerError, ValueError):
    """A file is not a whole, unchanged export; export it again.

    None of it was imported. `reason` is "truncated", "foreign" (not an export), "newer" (upgrade this package) or
    "damaged".
    """

    def __init__(self, message: str, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


class FileTaken(CallerError, FileExistsError):
    """The target file exists or is being written, and stays; choose another path."""


class PathInUse(CallerError):
    """An embedded server runs on this path; share its URL, or use another path."""


class MissingExtra(CallerError, ImportError):
    """An optional extra of this package is missing; install it."""


class ServerError(EventLogError):
    """The server, the network or the stored data prevents the call."""


class ServerUnavailable(ServerError, ConnectionError):
    """The server is unreachable or slow; check it, and repeat the call."""


class PoolExhausted(ServerUnavailable):
    """No connection of the pool became free in time; raise its `max_connections`."""


class ServerLoading(ServerError):
    """The server is still loading its data; repeat the call later."""


class ServerReadOnly(ServerError):
    """The server is a read-only replica; connect to the primary."""


class ServerOutOfMemory(ServerError):
    """The server is at `maxmemory` and refuses writes; make room."""


class ServerMisconfigured(ServerError):
    """The server has an unsafe setting or an old version; change or upgrade it."""


class ServerFailedCommand(ServerError):
    """The server replied with another error; look at its log and at the cause."""


class AuthenticationFailed(ServerError):
    """The server refused the credentials; check user name and password."""


class AccessDenied(ServerError):
    """The server's user may not run a command or use a key; grant the right."""


class LogLost(ServerError):
    """The log of a known thread is gone; restore it, or delete the thread."""


class PositionLost(ServerError):
    """A position is ahead of the feed after a failover; start at the end of the feed.

    The position comes from a server that failed before a replica had the same entries.
    """


class CorruptEntry(ServerError, ValueError):
    """A stream entry is not of this project; remove it, or restore the log.

    The message names thread and entry id.
    """


class SignatureInvalid(ServerError, ValueError):
    """An event has no signature of an accepted key; pass the key, or restore the log.

    No part of the event was deserialized.
    """


class ValueUnreadable(ServerError, ValueError):
    """The serializer cannot read a value; use those that wrote it.

    These are its key, its serializer, or a type that cannot be imported here.
    """


class TypeNotAllowed(ValueUnreadable):
    """A value holds types that may not be revived; allow them if they are yours.

    `types` has their modules and names. Nothing of them was imported or called. The message has the line to add.
    """

    def __init__(self, message: str, types: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.types = types


class ValueNotEncrypted(ValueUnreadable):
    """The serializer encrypts, but a value is not encrypted; it was not deserialized.

    Accept such values if they were written before encryption was switched on.
    """


class NewerSchema(CorruptEntry):
    """A newer version of this project wrote a stream entry; upgrade the package."""


_RIGHTS = "give the user the rights listed under 'Access rights' in OPERATIONS.md; consumer groups need further ones"
_PASSWORD = "check user name and password, e.g. redis://user:password@host"  # noqa: S105 - an example # nosec B105
_PRIMARY = "connect to the primary (through Sentinel or the cluster, clients follow a failover)"
_ROOM = "raise maxmemory, delete threads, or set a ttl"
_LOADED = "wait until the server has loaded its data, then call again"
_SLOTS = "wait for the cluster to cover all slots again"
_POOL = "raise the pool's max_connections, or make fewer calls at once"
_REACH = "check that the server runs and the address is right"
_PORT = "check that host and port are those of a Redis server"
_BULK = "raise the server's proto-max-bulk-len, or keep large data elsewhere"
_NODE = "the server is a node of a cluster; use redis+cluster://host:port or RedisCluster"
_NO_CLUSTER = "the server is not a cluster (use redis://), or the user lacks CLUSTER SLOTS"
_DISK = "the server cannot persist; fix its disk or its save settings"
_REPLICAS = "bring back the replicas that min-replicas-to-write asks for"
_SENTINEL = "a Sentinel answers there; use redis+sentinel://"
_FOREIGN = (
    "a key holds what this package did not write, unless the server reports a failure of its own; agentlog check names damage, "
    "agentlog rebuild mends the views of threads, and a group is dropped and registered again"
)
_GREATEST = (
    "a stream has given a greater id than this package gives; find out who may write to it, then set the id of its last entry "
    "again: XSETID KEY ID, for a thread's log or a partition's feed"
)
_LOAD = "check the server's load, socket_timeout, and whether it speaks TLS (rediss://)"

_RULES: tuple[tuple[type[Exception], tuple[str, ...], type[EventLogError], str], ...] = (
    # redis-py's type, parts of its message, our type, remedy. The first match counts, since redis-py derives most of its
    # types from ConnectionError or ResponseError. The error of a script contains the message of the failed command.
    (rx.RedisClusterException, ("Cluster mode is not enabled",), ServerMisconfigured, _NO_CLUSTER),
    (rx.RedisClusterException, ("",), ServerUnavailable, "check that the cluster's nodes run and cover all slots"),
    (rx.MaxConnectionsError, ("",), PoolExhausted, _POOL),
    (rx.ConnectionError, ("Too many connections", "No connection available"), PoolExhausted, _POOL),
    (rx.BusyLoadingError, ("",), ServerLoading, _LOADED),
    (rx.AuthenticationError, ("",), AuthenticationFailed, _PASSWORD),
    (rx.AuthorizationError, ("",), AuthenticationFailed, _PASSWORD),
    (rx.NoPermissionError, ("",), AccessDenied, _RIGHTS),
    (rx.ReadOnlyError, ("",), ServerReadOnly, _PRIMARY),
    (rx.OutOfMemoryError, ("",), ServerOutOfMemory, _ROOM),
    (rx.MovedError, ("",), ServerMisconfigured, _NODE),
    (rx.ClusterDownError, ("",), ServerUnavailable, _SLOTS),
    (rx.ClusterError, ("",), ServerUnavailable, "a slot moves between nodes, or a node fails over; call again"),
    (rx.ResponseError, ("UNBLOCKED",), ServerUnavailable, _PRIMARY),
    (rx.ResponseError, ("OOM",), ServerOutOfMemory, _ROOM),
    (rx.ResponseError, ("READONLY",), ServerReadOnly, _PRIMARY),
    (rx.ResponseError, ("LOADING",), ServerLoading, _LOADED),
    (rx.ResponseError, ("MASTERDOWN",), ServerUnavailable, "connect to the primary"),
    (rx.ResponseError, ("MISCONF",), ServerMisconfigured, _DISK),
    (rx.ResponseError, ("NOREPLICAS",), ServerUnavailable, _REPLICAS),
    (rx.ResponseError, ("NOPERM", "The user executing the script", "ACL failure"), AccessDenied, _RIGHTS),
    (rx.ResponseError, ("NOAUTH", "HELLO must be called", "WRONGPASS"), AuthenticationFailed, _PASSWORD),
    (rx.ResponseError, ("CLUSTERDOWN",), ServerUnavailable, _SLOTS),
    (rx.ResponseError, ("TRYAGAIN",), ServerUnavailable, "a slot moves between nodes; call again"),
    (rx.ResponseError, ("BUSY",), ServerUnavailable, "another script blocks the server; wait, or SCRIPT KILL it"),
    (rx.ResponseError, ("invalid bulk length",), ValueTooLarge, _BULK),
    (rx.ResponseError, ("WRONGTYPE",), CorruptEntry, "a key has another type; give the saver a prefix of its own"),
    (
        rx.ResponseError,
        ("smaller than the target stream", "exhausted the last possible"),
        ServerFailedCommand,
        _GREATEST,
    ),
    (rx.ResponseError, ("user_script", "Invalid stream ID"), ServerFailedCommand, _FOREIGN),
    (rx.ResponseError, ("unknown command 'EVAL",), ServerMisconfigured, _SENTINEL),
    (rx.ResponseError, ("unknown command 'SENTINEL",), ServerMisconfigured, "no Sentinel answers there; use redis://"),
    (rx.ResponseError, ("DB index is out of range",), ServerMisconfigured, "name a database that the server has"),
    (rx.InvalidResponse, ("",), ServerMisconfigured, _PORT),
    (rx.ConnectionError, ("Protocol Error",), ServerMisconfigured, _PORT),
    (rx.ConnectionError, ("No master found",), ServerUnavailable, "check the Sentinels, and the name of the service"),
    (rx.TimeoutError, ("",), ServerUnavailable, _LOAD),
    (rx.ConnectionError, ("",), ServerUnavailable, _REACH),
    (OSError, ("",), ServerUnavailable, _REACH),
    (Exception, ("",), ServerFailedCommand, "look at the server's log, and at the cause of this error"),
)


def is_of_contents(error: ServerError) -> bool:
    """Whether a script failed over the contents of a key, which another program may have written to.

    A key of another type may be another application's, so its contents do not count. What counts are the server's own words:
    our message also has ids, which may be any text.
    """
    cause: BaseException | None = error
    while isinstance(cause, EventLogError):
        cause = cause.__cause__
    return "user_script" in str(cause) and "WRONGTYPE" not in str(cause)


def is_exhausted(error: Exception) -> bool:
    """Whether a pool that does not wait has no connection left.

    Some pools say so in the message only.
    """
    return isinstance(error, rx.MaxConnectionsError) or "Too many connections" in str(error)


def translate(error: Exception, subject: str) -> EventLogError:
    """Our error for an error of redis-py or of a socket.

    Its message names the `subject`, such as "thread '42'".
    """
    if isinstance(error.__cause__, rx.AuthenticationError):  # the asyncio client wraps it
        error = error.__cause__
    text = str(error) or type(error).__name__
    kind, remedy = next(
        (kind, remedy)
        for type_, parts, kind, remedy in _RULES
        if isinstance(error, type_) and any(part in text for part in parts)
    )
    quoted = text if len(text) <= MOST_QUOTED else text[:MOST_QUOTED] + "..."
    return kind(f"{subject}: {quoted.rstrip('.')}. To fix it: {remedy}.")
