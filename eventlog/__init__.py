"""The lowest floor has events, their encoding, and their streams.

It knows Redis and CBOR, not LangGraph.
"""

from eventlog.attribution import audit
from eventlog.connect.connections import Connections
from eventlog.errors import *  # noqa: F403
from eventlog.errors import __all__ as _errors
from eventlog.events import (
    CheckpointSaved,
    Event,
    HistoryPruned,
    Recorded,
    Removed,
    RunsDeleted,
    ThreadCopied,
    ValuesSaved,
    Write,
    WritesSaved,
)
from eventlog.feed.activity import Activity
from eventlog.feed.feed import ActivityFeed
from eventlog.feed.groups import Group, GroupInfo, Lag, Parked, PartitionLag
from eventlog.feed.member import Member
from eventlog.feed.position import Offset, Position
from eventlog.feed.tail import Tail
from eventlog.feed.trimming import HeldBack, Retention, Trimmed
from eventlog.keys import Keyspace
from eventlog.limits import Limits
from eventlog.signing import SigningKey
from eventlog.transport.drivers import Runner

__all__ = [  # noqa: PLE0604
    "Activity",
    "ActivityFeed",
    "CheckpointSaved",
    "Connections",
    "Event",
    "Group",
    "GroupInfo",
    "HeldBack",
    "HistoryPruned",
    "Keyspace",
    "Limits",
    "Lag",
    "Offset",
    "Member",
    "Parked",
    "PartitionLag",
    "Position",
    "Recorded",
    "Removed",
    "Retention",
    "RunsDeleted",
    "Runner",
    "SigningKey",
    "Tail",
    "ThreadCopied",
    "Trimmed",
    "ValuesSaved",
    "Write",
    "WritesSaved",
    "audit",
    *_errors,
]
