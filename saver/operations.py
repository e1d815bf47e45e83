"""The operations of the saver as flows: arguments checked and translated, then the flows of `projections`.

Everything that can be wrong with a call is found before the first request is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from os import PathLike
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer

from eventlog.attribution import stamp
from eventlog.codec import NEVER
from eventlog.connect.server import check_server
from eventlog.errors import InvalidArgument
from eventlog.events import CheckpointSaved, HistoryPruned, Removed, RunsDeleted, Write, WritesSaved
from eventlog.feed.activity import Activity
from eventlog.feed.reading import open_keyspace
from eventlog.feed.trimming import Retention
from eventlog.flow import Flow
from eventlog.keys import Keyspace, ThreadKeys, text
from projections.checkpoints.ancestry import read_ancestry
from projections.checkpoints.deletion import delete_thread
from projections.checkpoints.listing import Selection, list_checkpoints
from projections.checkpoints.pruning import Choice, remove_checkpoints
from projections.checkpoints.read import read_checkpoint, read_latest, remember
from projections.checkpoints.save import About, save_checkpoint, save_writes
from projections.integrity.findings import Verified
from projections.integrity.verify import verify_thread
from projections.maintenance.check import Checked, check_thread
from projections.maintenance.rebuild import Rebuilt, rebuild_known
from projections.registry.listing import list_threads
from projections.registry.rebuild import threads_of, threads_of_runs
from projections.time_travel.moment import When, moment_of
from projections.time_travel.replay import state_as_of
from projections.transfer.archive import Pruning, archive_thread
from projections.transfer.copy import copy_thread
from projections.transfer.export import export_file
from projections.transfer.import_ import check_file, import_file
from projections.values.cache import ValueCache
from saver.activities import values_of
from saver.configs import Address, address_of, configurable_of, id_of, thread_id_of
from saver.history import replayed
from saver.nodes import NOTHING, Known, KnownCheckpoints, nodes_of, writer_of
from saver.retention import TrimmingBehindPuts
from saver.translation import Translator, config_of, copied
from saver.ttl import TimeToLive

__all__ = ["Operations"]

T = TypeVar("T")

_UNSHARED = ValueCache(0, NEVER)
"""For values of which no two share anything, nor get shorter by compression: encrypted ones."""
KEEP_LATEST, DELETE = "keep_latest", "delete"
DELETE_ALL = "delete_all"
"""The LangGraph server's name for `DELETE`."""


class Operations:
    """Builds the flows. Holds what they have in common, and whether the server was checked yet."""

    def __init__(
        self, keyspace: Keyspace, ttl: TimeToLive, cache: ValueCache, retention: Retention | None = None
    ) -> None:
        self.keyspace = keyspace
        self.ttl = ttl
        self.cache = cache
        self.known = KnownCheckpoints()
        self.trimming = None if retention is None else TrimmingBehindPuts(keyspace, retention)
        self._checked = False

    def check(self) -> Flow[None]:
        """Checks server and prefix. One round trip."""
        yield from check_server(self.keyspace, expires=self.ttl.on_write > 0)
        self._checked = True

    def _first(self, flow: Flow[T]) -> Flow[T]:
        """`flow`, behind the check of server and prefix the first time."""
        if not self._checked:
            yield from self.check()
        return (yield from flow)

    def _reading(self, flow: Flow[T]) -> Flow[T]:
        """`flow`, which only reads, behind a check of the prefix that only reads, too."""
        if not self._checked:
            yield from open_keyspace(self.keyspace.prefix, self.keyspace.partitions)
        return (yield from flow)

    def _keys(self, thread_id: str) -> ThreadKeys:
        return self.keyspace.thread(thread_id.encode())

    def get_tuple(self, serde: SerializerProtocol, config: RunnableConfig) -> Flow[CheckpointTuple | None]:
        """The checkpoint that a config names, or the latest of its namespace."""
        address = address_of(config)
        keys, namespace = self._keys(address.thread_id), address.namespace or ""
        if address.checkpoint_id is None:
            reading = read_latest(keys, namespace, ttl=self.ttl.on_read)
        else:
            reading = read_checkpoint(keys, namespace, address.checkpoint_id, ttl=self.ttl.on_read)
        stored = yield from self._first(reading)
        if stored is None:
            return None
        if not isinstance(serde, EncryptedSerializer):
            remember(self.cache, keys, stored)
        found = Translator(serde).checkpoint_tuple(address.thread_id, stored)
        known = Known.of(found.checkpoint, found.metadata)
        name = address.thread_id, namespace, stored.checkpoint_id
        self.known.note(name, known._replace(seen=copied(known.seen), audit=_stamp(serde, config)))
        return found

    def get_tuple_as_of(
        self, serde: SerializerProtocol, config: RunnableConfig, when: When
    ) -> Flow[CheckpointTuple | None]:
        """The latest checkpoint of the config's namespace, as of a moment."""
        address = address_of(config)
        if address.checkpoint_id is not None:
            raise InvalidArgument(
                f"{address.subject}: the config names checkpoint {address.checkpoint_id!r}, and a checkpoint is what it is at any "
                "time. Leave checkpoint_id out, or call get_tuple."
            )
        moment = moment_of(when, thread=address.thread_id)
        reading = state_as_of(self._keys(address.thread_id), address.namespace or "", moment)
        stored = yield from self._reading(reading)
        return None if stored is None else Translator(serde).checkpoint_tuple(address.thread_id, stored)

    def replay(
        self, serde: SerializerProtocol, thread_id: str, namespace: str | None, since: When | None, until: When | None
    ) -> Flow[None]:
        """Emits each event of a thread, with the state after it."""
        thread = thread_id_of(thread_id)
        namespace = None if namespace is None else id_of(namespace, "namespace")
        first = None if since is None else moment_of(since, "since", thread=thread)
        last = None if until is None else moment_of(until, "until", thread=thread)
        keys = self._keys(thread)
        yield from self._reading(replayed(Translator(serde), keys, namespace=namespace, since=first, until=last))

    def list(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig | None,
        filter: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Flow[None]:
        """Emits the checkpoints selected, newest first."""
        translator = Translator(serde)
        address = None if config is None else address_of(config)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"limit must be an int, not {type(limit).__name__}.")
        selection = Selection(
            namespace=address and address.namespace,
            checkpoint_id=address and address.checkpoint_id,
            before=_before(before),
            matches=_matcher(translator, filter),
            limit=limit,
        )
        if not self._checked:
            yield from self.check()
        threads = [address.thread_id.encode()] if address else (yield from threads_of(self.keyspace))
        yield from list_checkpoints(self.keyspace, threads, selection, translator.checkpoint_tuple)

    def put(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Flow[RunnableConfig]:
        """Appends a checkpoint; the config that names it."""
        address = address_of(config)
        event, values, full = Translator(serde).checkpoint_saved(address, config, checkpoint, metadata, new_versions)
        source, step, run = [_word(address.thread_id, full, key) for key in ("source", "step", "run_id")]
        about = About(source, step, run, self._nodes(address, checkpoint, full, event.audit))
        keys = self._keys(address.thread_id)
        cache = _UNSHARED if isinstance(serde, EncryptedSerializer) else self.cache
        yield from self._first(save_checkpoint(keys, event, values, cache=cache, ttl=self.ttl.on_write, about=about))
        if self.trimming is not None:
            yield from self.trimming.behind_put(keys.thread)
        return config_of(address.thread_id, event.namespace, event.checkpoint_id)

    def put_writes(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> Flow[None]:
        """Appends writes of a task."""
        address = address_of(config)
        event = Translator(serde).writes_saved(address, writes, task_id, task_path, config.get("metadata"))
        if event.audit is None:
            known = self.known.get((address.thread_id, event.namespace, event.checkpoint_id))
            event = event if known is None or known.audit is None else replace(event, audit=known.audit)
        if event.writes:
            keys = self._keys(address.thread_id)
            about = self._about_writes(address.thread_id, event, config)
            yield from self._first(save_writes(keys, event, ttl=self.ttl.on_write, about=about))
            if self.trimming is not None:
                yield from self.trimming.behind_put(keys.thread)

    def _nodes(
        self,
        address: Address,
        checkpoint: Checkpoint,
        metadata: Mapping[str, Any],
        audit: Mapping[str, Any] | None,
    ) -> Sequence[str]:
        """The nodes that ran to make a checkpoint that is put, which is known from now on."""
        thread_id, namespace, parent_id = address
        namespace = namespace or ""
        before = NOTHING if parent_id is None else self.known.get((thread_id, namespace, parent_id))
        known = Known.of(checkpoint, metadata)
        self.known.note((thread_id, namespace, checkpoint["id"]), known._replace(audit=audit))
        return nodes_of(known, metadata.get("source"), before)

    def _about_writes(self, thread_id: str, event: WritesSaved, config: RunnableConfig) -> About:
        """What the feed is told of writes: they are made in the step after that of their checkpoint."""
        known = self.known.get((thread_id, event.namespace, event.checkpoint_id))
        step = "" if known is None or known.step is None else str(known.step + 1)
        return About("", step, _run_of(thread_id, config), writer_of(event.task_path, known))

    def delete_thread(self, thread_id: str) -> Flow[None]:
        """Deletes a thread."""
        yield from self._first(delete_thread(self._keys(thread_id_of(thread_id))))

    def delete_for_runs(self, serde: SerializerProtocol, run_ids: Sequence[str]) -> Flow[None]:
        """Deletes the checkpoints of runs, with their writes, on whatever threads they are."""
        runs = _several("run_ids", run_ids)
        if not runs:
            return
        translator = Translator(serde)
        found = yield from self._first(threads_of_runs(self.keyspace, runs))
        for thread, its_runs in found.items():
            thread_id = thread.decode()

            def of_runs(
                checkpoints: Sequence[CheckpointSaved], thread_id: str = thread_id, its_runs: set[str] = its_runs
            ) -> Iterable[CheckpointSaved]:
                for event in checkpoints:
                    metadata = translator.metadata(thread_id, event.checkpoint_id, event.body)
                    if _word(thread_id, metadata, "run_id") in its_runs:
                        yield event

            def describe(removed: Removed, its_runs: set[str] = its_runs) -> RunsDeleted:
                return RunsDeleted(tuple(sorted(its_runs)), removed, stamp())

            yield from remove_checkpoints(
                self.keyspace.thread(thread), of_runs, _replayed(translator, thread_id), describe
            )

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
        keys = self._keys(source), self._keys(target)
        yield from self._first(copy_thread(self.keyspace, *keys, ttl=self.ttl.on_write, until=last))

    def export_threads(
        self, path: str | PathLike[str], thread_ids: Sequence[str] | None, *, overwrite: bool, damaged: bool
    ) -> Flow[None]:
        """Exports threads; emits work on the file, progress, and what was exported."""
        threads = None if thread_ids is None else _several("thread_ids", thread_ids)
        yield from self._reading(export_file(self.keyspace, threads, path, overwrite=overwrite, damaged=damaged))

    def import_threads(self, path: str | PathLike[str], thread_ids: Sequence[str] | None) -> Flow[None]:
        """Imports threads; emits work on the file, progress, and what was imported."""
        threads = None if thread_ids is None else _several("thread_ids", thread_ids)
        heads = yield from check_file(path, threads)
        yield from self._first(import_file(self.keyspace, path, heads, ttl=self.ttl.on_write))

    def archive_thread(
        self,
        serde: SerializerProtocol,
        thread_id: str,
        path: str | PathLike[str],
        *,
        keep_last: int | None,
        delete: bool,
    ) -> Flow[None]:
        """Exports a thread and takes out what is archived; emits work on the file, progress, and what was done."""
        thread = thread_id_of(thread_id)
        _check_keep(keep_last, delete=delete, instead="delete=True")
        pruning = None
        if not delete:
            choice, replayed = _all_but(keep_last or 1), _replayed(Translator(serde), thread)
            pruning = Pruning(choice, replayed, lambda removed: HistoryPruned(KEEP_LATEST, removed, stamp()))
        yield from self._first(archive_thread(self.keyspace, self._keys(thread), path, pruning))

    def prune(
        self, serde: SerializerProtocol, thread_ids: Sequence[str], strategy: str, keep_last: int | None
    ) -> Flow[None]:
        """Removes checkpoints of threads."""
        threads = _several("thread_ids", thread_ids)
        if strategy not in (KEEP_LATEST, DELETE, DELETE_ALL):
            raise InvalidArgument(
                f"Unknown prune strategy {strategy!r}; pass {KEEP_LATEST!r}, {DELETE!r} or {DELETE_ALL!r}, which means the same."
            )
        strategy = DELETE if strategy == DELETE_ALL else strategy
        _check_keep(keep_last, delete=strategy == DELETE, instead=f"strategy={DELETE!r}")
        translator = Translator(serde)
        for thread_id in threads:
            if strategy == DELETE:
                yield from self.delete_thread(thread_id)
                continue
            yield from self._first(
                remove_checkpoints(
                    self._keys(thread_id),
                    _all_but(keep_last or 1),
                    _replayed(translator, thread_id),
                    lambda removed: HistoryPruned(strategy, removed, stamp()),
                )
            )

    def threads(self, since: datetime | None, limit: int | None) -> Flow[None]:
        """Emits the threads there are, those last active first."""
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise TypeError(f"limit must be an int, not {type(limit).__name__}.")
        if since is not None and not isinstance(since, datetime):
            raise TypeError(f"since must be a datetime, not {type(since).__name__}.")
        if since is not None and since.tzinfo is None:
            raise InvalidArgument(f"since {since!r} has no time zone; pass e.g. datetime.now(timezone.utc).")
        yield from self._reading(list_threads(self.keyspace, since=since, limit=limit))

    def check_thread(self, thread_id: str) -> Flow[Checked]:
        """Compares the views of a thread with its log."""
        return (yield from self._reading(check_thread(self._keys(thread_id_of(thread_id)))))

    def rebuild_thread(self, thread_id: str) -> Flow[Rebuilt]:
        """Makes the views of a thread, and those of its partition, anew."""
        return (yield from self._first(rebuild_known(self.keyspace, self._keys(thread_id_of(thread_id)))))

    def put_indexed_writes(
        self,
        serde: SerializerProtocol,
        config: RunnableConfig,
        writes: Sequence[tuple[int, str, Any]],
        task_id: str,
        task_path: str,
    ) -> Flow[None]:
        """Appends writes of a task that come from another saver, with the index that each has there."""
        address = address_of(config)
        translator = Translator(serde)
        found: list[Write] = []
        event = translator.writes_saved(address, [], task_id, task_path)
        for idx, channel, value in writes:
            (write,) = translator.writes_saved(address, [(channel, value)], task_id, task_path).writes
            found.append(write._replace(idx=idx))
        idempotency_key = translator.writes_saved(
            address, [one[1:] for one in writes], task_id, task_path
        ).idempotency_key
        event = replace(event, writes=tuple(found), idempotency_key=idempotency_key)
        about = self._about_writes(address.thread_id, event, config)
        keys = self._keys(address.thread_id)
        yield from self._first(save_writes(keys, event, ttl=self.ttl.on_write, about=about))

    def values_of(self, serde: SerializerProtocol, activity: Activity) -> Flow[Sequence[tuple[str, Any]]]:
        """What an event brought."""
        return (yield from self._first(values_of(Translator(serde), self.keyspace, activity)))

    def verify(self, thread_id: str, expected: Mapping[int, str] | None) -> Flow[Verified]:
        """Verifies a thread's log."""
        keys = self._keys(thread_id_of(thread_id))
        wanted = _digests(expected)
        return (yield from self._reading(verify_thread(keys, expected=wanted)))

    def delta_history(
        self, serde: SerializerProtocol, config: RunnableConfig, channels: Sequence[str]
    ) -> Flow[Mapping[str, DeltaChannelHistory]]:
        """What delta channels are rebuilt from."""
        if isinstance(channels, (str, bytes)) or not isinstance(channels, Iterable):
            raise TypeError(
                f"channels must be a list of channel names, not {type(channels).__name__}; pass [{channels!r}]."
            )
        channels = [id_of(channel, "each of channels") for channel in channels]
        if not channels:
            return {}
        address = address_of(config)
        translator = Translator(serde)
        ancestries = yield from self._first(
            read_ancestry(self._keys(address.thread_id), address.namespace or "", address.checkpoint_id, channels)
        )
        return {channel: translator.delta_history(address.thread_id, found) for channel, found in ancestries.items()}


def _digests(expected: Mapping[int, str] | None) -> Mapping[int, str]:
    """Digests by sequence number. Raises `InvalidArgument` or `TypeError`."""
    if expected is None:
        return {}
    if not isinstance(expected, Mapping):
        raise TypeError(f"expected must map sequence numbers to digests, not be a {type(expected).__name__}.")
    for number, digest in expected.items():
        if isinstance(number, bool) or not isinstance(number, int) or not isinstance(digest, str):
            raise TypeError(f"expected must map ints to strings, not {number!r:.80} to {digest!r:.80}.")
        if number < 1 or not re.fullmatch(r"[0-9a-f]{40}", digest):
            raise InvalidArgument(
                f"expected: {number}: {digest!r:.80} is no number from 1 on with a digest of 40 digits."
            )
    return expected


def _stamp(serde: SerializerProtocol, config: RunnableConfig) -> Mapping[str, Any] | None:
    """What a call is stamped with."""
    return stamp(None if isinstance(serde, EncryptedSerializer) else config.get("metadata"))


def _word(thread_id: str, metadata: Mapping[str, Any], key: str) -> str:
    """A value of metadata as the feed has it."""
    value = metadata.get(key)
    word = "" if value is None else str(value)
    if not word.isascii():
        text(f"Thread {thread_id!r}: metadata {key!r}", word)
    return word


def _run_of(thread_id: str, config: RunnableConfig) -> str:
    """The run that a call belongs to, as LangGraph's `get_checkpoint_metadata` finds it for a put."""
    for part in (config.get("metadata"), config.get("configurable")):
        if isinstance(part, Mapping) and isinstance(part.get("run_id"), (str, int, float)):
            return _word(thread_id, part, "run_id").replace("\0", "")
    return ""


def _before(before: RunnableConfig | None) -> str | None:
    found = configurable_of(before, "before").get("checkpoint_id")
    return id_of(found, "checkpoint_id of before") if found else None


def _several(field: str, ids: Sequence[str]) -> list[str]:
    """Ids as texts. A single string would be taken for its letters, so it is refused."""
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Iterable):
        raise TypeError(f"{field} must be a list of ids, not {type(ids).__name__}; pass [{ids!r}].")
    return [thread_id_of(one, f"each of {field}") for one in ids]


def _check_keep(keep_last: int | None, *, delete: bool, instead: str) -> None:
    if keep_last is None:
        return
    if isinstance(keep_last, bool) or not isinstance(keep_last, int):
        raise TypeError(f"keep_last must be an int, not {type(keep_last).__name__}.")
    if keep_last < 1:
        raise InvalidArgument(f"keep_last must be 1 or more, not {keep_last}; to delete threads pass {instead}.")
    if delete:
        raise InvalidArgument(f"keep_last goes with strategy={KEEP_LATEST!r}, not with {instead}.")


def _all_but(keep: int) -> Choice:
    """All checkpoints but the newest ones of each namespace, oldest first."""

    def choose(checkpoints: Sequence[CheckpointSaved]) -> Iterable[CheckpointSaved]:
        ids: dict[str, list[str]] = {}
        for event in checkpoints:
            ids.setdefault(event.namespace, []).append(event.checkpoint_id)
        kept = {(namespace, one) for namespace, some in ids.items() for one in sorted(some)[-keep:]}
        return (event for event in checkpoints if (event.namespace, event.checkpoint_id) not in kept)

    return choose


def _replayed(translator: Translator, thread_id: str) -> Callable[[CheckpointSaved], Iterable[str]]:
    return lambda event: translator.delta_channels(thread_id, event)


def _matcher(
    translator: Translator, filter: Mapping[str, Any] | None
) -> Callable[[str, str, Mapping[str, Any]], bool] | None:
    """Whether a checkpoint's metadata has every key of `filter`, with an equal value."""
    if not filter:
        return None
    if not isinstance(filter, Mapping):
        raise TypeError(f"filter must be a mapping of metadata keys to values, not {type(filter).__name__}.")

    def matches(thread: str, checkpoint_id: str, body: Mapping[str, Any]) -> bool:
        metadata = translator.metadata(thread, checkpoint_id, body)
        return all(value == metadata.get(key) for key, value in filter.items())

    return matches
