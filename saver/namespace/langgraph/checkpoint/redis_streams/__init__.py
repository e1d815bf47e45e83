"""The public names of this project, in the namespace of LangGraph's checkpointers.

The names are loaded on first use, as in `saver`. `langgraph` and `langgraph.checkpoint` are namespace packages shared with
other distributions, so this project has no `__init__.py` in them.
"""

# ruff: noqa: F405 - the names in `__all__`

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog import *  # noqa: F403
    from eventlog.errors import *  # noqa: F403 - whose names mypy does not find in `eventlog.__all__`
    from projections import *  # noqa: F403
    from saver import *  # noqa: F403
    from saver.differences import differences
    from saver.migration.migrate import amigrate, migrate

__all__ = [
    "AccessDenied",
    "Activity",
    "ActivityFeed",
    "AuthenticationFailed",
    "BeforeFirstEvent",
    "CallerError",
    "CheckpointSaved",
    "Connections",
    "CorruptEntry",
    "EffectRefused",
    "EmbeddedServer",
    "Event",
    "EventGone",
    "EventLogError",
    "ExportUnreadable",
    "FeedClosed",
    "FeedProjection",
    "FileTaken",
    "Group",
    "GroupInfo",
    "GroupNotFound",
    "HeldBack",
    "HistoryGone",
    "HistoryPruned",
    "Index",
    "InvalidArgument",
    "Keyspace",
    "Lag",
    "LayoutMismatch",
    "Limits",
    "LogLost",
    "Member",
    "MissingExtra",
    "NewerSchema",
    "NoSyncConnection",
    "Offset",
    "OverLimit",
    "Parked",
    "PartitionLag",
    "PathInUse",
    "PendingWrite",
    "PoolExhausted",
    "Position",
    "PositionLost",
    "PositionTrimmed",
    "Recorded",
    "RedisStreamSaver",
    "Removed",
    "Retention",
    "Runner",
    "RunsDeleted",
    "SaverClosed",
    "SaverOptions",
    "ServerError",
    "ServerFailedCommand",
    "ServerLoading",
    "ServerMisconfigured",
    "ServerOutOfMemory",
    "ServerReadOnly",
    "ServerUnavailable",
    "SignatureInvalid",
    "SigningKey",
    "StoredCheckpoint",
    "StrictSerializer",
    "Tail",
    "ThreadBusy",
    "ThreadCopied",
    "ThreadExists",
    "ThreadNotFound",
    "Trimmed",
    "TypeNotAllowed",
    "ValueNotEncrypted",
    "ValueTooLarge",
    "ValueUnreadable",
    "ValueUnwritable",
    "ValuesSaved",
    "Write",
    "WritesSaved",
    "amigrate",
    "audit",
    "differences",
    "fold",
    "migrate",
]

_HOMES = {
    "FeedProjection": "projections",
    "Index": "projections",
    "PendingWrite": "projections",
    "StoredCheckpoint": "projections",
    "fold": "projections",
    "EmbeddedServer": "saver",
    "RedisStreamSaver": "saver",
    "SaverOptions": "saver",
    "StrictSerializer": "saver",
    "differences": "saver.differences",
    "amigrate": "saver.migration.migrate",
    "migrate": "saver.migration.migrate",
}
"""The modules of the names that `eventlog` does not have."""


def _refuse_another_saver() -> None:
    """Raises ImportError if `saver` is not the package of this project.

    The package is recognized by its module `shadowing`, and is not imported for this: it may be the application itself.
    """
    spec = find_spec("saver")
    if spec is None:
        return
    folders = spec.submodule_search_locations or []
    if any(finder.find_spec("saver.shadowing", folders) for finder in sys.meta_path):
        return
    found = spec.origin or next(iter(folders), "a module without a file")
    raise ImportError(
        f"'saver' is a package of langgraph-checkpoint-redis-streams, but Python finds {found} first. "
        "Rename it, move it into a package of the application, or start the application from another folder.",
        name="saver",
        path=found,
    )


_refuse_another_saver()
import_module("saver")  # which refuses another `eventlog` or `projections`


if not TYPE_CHECKING:  # otherwise type checkers accept any name

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found: object = getattr(import_module(_HOMES.get(name, "eventlog")), name)
        globals()[name] = found
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
