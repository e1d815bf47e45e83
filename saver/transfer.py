"""Operations that copy, export, import and archive threads."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike

from langgraph.checkpoint.serde.base import SerializerProtocol

from eventlog.errors import InvalidArgument
from eventlog.flow import Flow
from projections.time_travel.moment import When, moment_of
from projections.transfer.archive import Archived, Pruning, archive_thread
from projections.transfer.copy import copy_thread
from projections.transfer.export import Exported, export_file
from projections.transfer.import_ import Imported, check_file, import_file
from saver.configs import thread_id_of
from saver.operations_base import OperationsBase
from saver.upkeep import all_but, check_keep, delta_channels_of, pruned

__all__ = ["Transfer"]


class Transfer(OperationsBase):
    """Carries whole logs. Flows on files emit the work on the file, and the progress."""

    def copy_thread(self, source_thread_id: str, target_thread_id: str, until: When | None = None) -> Flow[None]:
        """Copies a thread."""
        source = thread_id_of(source_thread_id, "source_thread_id")
        target = thread_id_of(target_thread_id, "target_thread_id")
        if source == target:
            raise InvalidArgument(f"Thread {source!r} cannot be copied onto itself; name another target_thread_id.")
        last = None if until is None else moment_of(until, "until", thread=source)
        if last is not None and last.sequence is not None and last.sequence < 1:
            raise InvalidArgument(
                f"Thread {source!r}: until must be 1 or more, not {last.sequence}: events are numbered from 1 on."
            )
        keys = self.keys_of(source), self.keys_of(target)
        yield from self.checked(copy_thread(self.keyspace, *keys, ttl=self.ttl.on_write, until=last))

    def export_threads(
        self, path: str | PathLike[str], thread_ids: Sequence[str] | None, *, overwrite: bool, damaged: bool
    ) -> Flow[Exported]:
        """Exports threads to a file."""
        threads = None if thread_ids is None else self.ids_of(thread_ids, "thread_ids")
        return (
            yield from self.checked_read_only(
                export_file(self.keyspace, threads, path, overwrite=overwrite, damaged=damaged)
            )
        )

    def import_threads(self, path: str | PathLike[str], thread_ids: Sequence[str] | None) -> Flow[Imported]:
        """Imports threads from a file."""
        threads = None if thread_ids is None else self.ids_of(thread_ids, "thread_ids")
        heads = yield from check_file(path, threads, self.keyspace.limits, self.keyspace.signer)
        return (yield from self.checked(import_file(self.keyspace, path, heads, ttl=self.ttl.on_write)))

    def archive_thread(
        self,
        serde: SerializerProtocol,
        thread_id: str,
        path: str | PathLike[str],
        *,
        keep_last: int | None,
        delete: bool,
    ) -> Flow[Archived]:
        """Exports a thread, then prunes or deletes it."""
        thread = thread_id_of(thread_id)
        check_keep(keep_last, delete=delete, instead="delete=True")
        pruning = None
        if not delete:
            pruning = Pruning(all_but(keep_last or 1), delta_channels_of(self.translator(serde), thread), pruned)
        return (yield from self.checked(archive_thread(self.keyspace, self.keys_of(thread), path, pruning)))
