"""The log: events, their encoding, and the streams they lie in. Knows Redis and CBOR, not LangGraph."""

from eventlog.connections import Connections
from eventlog.drivers import Runner
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
from eventlog.keys import Keyspace

__all__ = [  # noqa: PLE0604
    "CheckpointSaved",
    "Connections",
    "Event",
    "HistoryPruned",
    "Keyspace",
    "Recorded",
    "Removed",
    "RunsDeleted",
    "Runner",
    "ThreadCopied",
    "ValuesSaved",
    "Write",
    "WritesSaved",
    *_errors,
]
