"""Operations that remove history, and that check or rebuild the views of a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from langgraph.checkpoint.serde.base import SerializerProtocol

from eventlog.attribution import stamp
from eventlog.errors import InvalidArgument
from eventlog.events import CheckpointSaved, HistoryPruned, Removed, RunsDeleted
from eventlog.flow import Flow
from projections.checkpoints.deletion import delete_thread
from projections.checkpoints.pruning import Choice, remove_checkpoints
from projections.maintenance.check import Checked, check_thread
from projections.maintenance.rebuild import Rebuilt, rebuild_known
from projections.registry.rebuild import threads_of_runs
from saver.configs import ids_of, thread_id_of, whole_number
from saver.operations_base import OperationsBase
from saver.translation import Translator, metadata_text

__all__ = ["Upkeep", "all_but", "check_keep", "delta_channels_of", "pruned"]

KEEP_LATEST, DELETE = "keep_latest", "delete"
DELETE_ALL = "delete_all"
"""The LangGraph server's name for `DELETE`."""


class Upkeep(OperationsBase):
    """Removes history, and keeps views right."""

    def delete_thread(self, thread_id: str) -> Flow[None]:
        """Deletes a thread."""
        yield from self.checked(delete_thread(self.keys_of(thread_id_of(thread_id))))

    def delete_for_runs(self, serde: SerializerProtocol, run_ids: Sequence[str]) -> Flow[None]:
        """Deletes the checkpoints of runs with their writes, on any thread."""
        runs = ids_of(run_ids, "run_ids")
        if not runs:
            return
        translator = self.translator(serde)
        found = yield from self.checked(threads_of_runs(self.keyspace, runs))
        for thread, runs_there in found.items():
            thread_id = thread.decode()

            def of_runs(
                checkpoints: Sequence[CheckpointSaved], thread_id: str = thread_id, runs: set[str] = runs_there
            ) -> Iterable[CheckpointSaved]:
                for event in checkpoints:
                    metadata = translator.metadata(thread_id, event.checkpoint_id, event.body)
                    if metadata_text(thread_id, metadata, "run_id") in runs:
                        yield event

            def describe(removed: Removed, runs: set[str] = runs_there) -> RunsDeleted:
                return RunsDeleted(tuple(sorted(runs)), removed, stamp())

            delta_channels = delta_channels_of(translator, thread_id)
            yield from remove_checkpoints(self.keyspace.thread(thread), of_runs, delta_channels, describe)

    def prune(
        self, serde: SerializerProtocol, thread_ids: Sequence[str], strategy: str, keep_last: int | None
    ) -> Flow[None]:
        """Removes checkpoints of threads."""
        threads = ids_of(thread_ids, "thread_ids")
        if strategy not in (KEEP_LATEST, DELETE, DELETE_ALL):
            raise InvalidArgument(
                f"Unknown prune strategy {strategy!r}; pass {KEEP_LATEST!r}, {DELETE!r} or {DELETE_ALL!r} (same as {DELETE!r})."
            )
        delete = strategy != KEEP_LATEST
        check_keep(keep_last, delete=delete, instead=f"strategy={DELETE!r}")
        translator = self.translator(serde)
        for thread_id in threads:
            if delete:
                yield from self.delete_thread(thread_id)
                continue
            delta_channels = delta_channels_of(translator, thread_id)
            yield from self.checked(
                remove_checkpoints(self.keys_of(thread_id), all_but(keep_last or 1), delta_channels, pruned)
            )

    def check_thread(self, thread_id: str) -> Flow[Checked]:
        """Compares the views of a thread with its log."""
        return (yield from self.checked_read_only(check_thread(self.keys_of(thread_id_of(thread_id)))))

    def rebuild_thread(self, thread_id: str) -> Flow[Rebuilt]:
        """Rebuilds the views of a thread and the registry of its partition."""
        return (yield from self.checked(rebuild_known(self.keyspace, self.keys_of(thread_id_of(thread_id)))))


def pruned(removed: Removed) -> HistoryPruned:
    """Returns the event of a prune that keeps the newest checkpoints."""
    return HistoryPruned(KEEP_LATEST, removed, stamp())


def check_keep(keep_last: int | None, *, delete: bool, instead: str) -> None:
    """Checks `keep_last`.

    Raises `TypeError` or `InvalidArgument`. `instead` is the argument that deletes threads.
    """
    if keep_last is None:
        return
    if whole_number(keep_last, "keep_last") < 1:
        raise InvalidArgument(f"keep_last must be 1 or more, not {keep_last}; to delete threads pass {instead}.")
    if delete:
        raise InvalidArgument(f"keep_last goes with strategy={KEEP_LATEST!r}, not with {instead}.")


def all_but(keep: int) -> Choice:
    """Returns a choice of all but the newest checkpoints of each namespace."""

    def choose(checkpoints: Sequence[CheckpointSaved]) -> Iterable[CheckpointSaved]:
        ids: dict[str, list[str]] = {}
        for event in checkpoints:
            ids.setdefault(event.namespace, []).append(event.checkpoint_id)
        kept = {(namespace, one) for namespace, some in ids.items() for one in sorted(some)[-keep:]}
        return (event for event in checkpoints if (event.namespace, event.checkpoint_id) not in kept)

    return choose


def delta_channels_of(translator: Translator, thread_id: str) -> Callable[[CheckpointSaved], Iterable[str]]:
    """Returns a function that finds the delta channels of a checkpoint of this thread."""
    return lambda event: translator.delta_channels(thread_id, event)
