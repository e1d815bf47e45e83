"""The saver that LangGraph calls.

Each method hands a flow (`saver.operations`) to the runner (`eventlog.transport.drivers`), which runs it sync or async.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, timedelta
from os import PathLike
from types import TracebackType
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from typing_extensions import Self, Unpack

from eventlog.connect.connections import Connections
from eventlog.feed.activity import Activity
from eventlog.keys import PARTITIONS, PREFIX
from eventlog.limits import Limits
from eventlog.signing import SigningKey
from eventlog.transport.drivers import Runner
from projections.integrity.findings import Verified
from projections.maintenance.check import Checked
from projections.maintenance.rebuild import Rebuilt
from projections.registry.listing import ThreadInfo
from projections.time_travel.moment import When
from projections.transfer.archive import Archived
from projections.transfer.export import Exported
from projections.transfer.import_ import Imported
from projections.transfer.progress import ProgressCallback, reporting
from projections.values.cache import CACHE_BYTES, COMPRESS_ABOVE
from saver.embedded import EmbeddedServer
from saver.history import Replayed
from saver.options import SaverOptions, operations_of, serializer_of
from saver.serializer import takes_allowlist
from saver.setting_up import SetUp
from saver.versions import next_version

__all__ = ["RedisStreamSaver"]


class RedisStreamSaver(BaseCheckpointSaver[str], AbstractContextManager, AbstractAsyncContextManager):  # type: ignore[type-arg]
    """A LangGraph checkpointer that keeps one append-only Redis Stream per thread.

    One saver has sync and async methods and serves any number of threads and tasks. It needs no set-up step. Its first call checks
    the server, which takes one more round trip.

    Every method raises a subclass of `eventlog.errors.EventLogError` if the server or the stored data prevent the call. A failure
    never looks like a thread without checkpoints.

    `close`, `aclose` and `with` close the connections that `from_conn_string` and `embedded` opened, and never those that the
    caller passed.

    Args:
        sync_connection: a `redis.Redis`, `redis.ConnectionPool`, `redis.RedisCluster`, or a client that Sentinel manages.
        async_connection: an asyncio client or pool of the same kinds. One of the two connections is enough. Async calls over a sync
            connection run in a thread. Sync calls over an async connection work from any thread but that of its event loop.
        options: see below. They are the same for `from_conn_string` and `embedded`, and typed in `saver.options.SaverOptions`.

    Options:
        prefix: the first part of every key, "langgraph" by default. Savers with different prefixes share nothing.
        partitions: the number of hash tags over which threads are spread, 16 by default. It is fixed at the first use of a prefix.
        serde: the serializer of values, which decides itself what it trusts. An `EncryptedSerializer` encrypts metadata as well.
            By default `StrictSerializer`, which revives listed types only: data types of LangGraph and LangChain, those of
            the schemas of compiled graphs, and those of `with_allowlist`. Any other type raises `TypeNotAllowed`.
        trust_types: True uses LangGraph's own serializer, which imports and calls whatever stored data names. A person who can
            write to the server can then run code in this process.
        accept_plaintext: True lets an `EncryptedSerializer` read values that are not encrypted, such as those from before
            encryption was switched on. Otherwise they raise `ValueNotEncrypted`.
        ttl: the minutes that a thread lives after its last write, or `{"default_ttl": minutes, "refresh_on_read": True}`. None, the
            default, keeps threads until they are deleted.
        cache_bytes: the most bytes of values that are cached as bases of deltas, for all threads together. With 0 every value is
            stored whole.
        compress_above: the size in bytes from which values and deltas are compressed with Zstandard in the log. None compresses
            nothing.
        feed_retention: the part of the feed to keep: a timedelta, a number of events, or `{"age": timedelta or seconds, "count":
            number}`. None, the default, keeps all. Trimming never takes what a consumer group still needs, and never trims thread
            logs. Puts trim each partition every five seconds or 500 puts, in one more round trip.
        signing_key: a `SigningKey`, or a secret of 16 bytes or more for HMAC, but no key file. The saver signs the events that it
            appends, and checks signatures before it deserializes anything. Reads then go to the log, in a few round trips, and not
            to heads. A thread is signed from its beginning or not at all.
        accepted_keys: further keys whose signatures are accepted, such as earlier keys or those of other writers.
        limits: `Limits` on the sizes of ids, and of values that are read. Data above them raise `OverLimit`.

    Raises:
        TypeError, InvalidArgument: an argument is wrong. The message names the remedy.

    """

    def __init__(
        self, sync_connection: Any = None, async_connection: Any = None, **options: Unpack[SaverOptions]
    ) -> None:
        self._open(Connections(sync_connection, async_connection), options)

    def _open(
        self,
        connections: Connections,
        options: SaverOptions,
        *,
        owns_connections: bool = False,
        server: EmbeddedServer | None = None,
    ) -> Self:
        self._operations = operations_of(connections, options)
        super().__init__(serde=serializer_of(options))
        self._connections = connections
        self._runner = Runner(connections)
        self._owns_connections = owns_connections
        self._server = server
        return self

    @classmethod
    def from_conn_string(  # a signature cannot have both `Unpack` and other keywords
        cls,
        conn_string: str,
        *,
        prefix: str = PREFIX,
        partitions: int = PARTITIONS,
        serde: SerializerProtocol | None = None,
        trust_types: bool = False,
        accept_plaintext: bool = False,
        ttl: float | Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
        compress_above: int | None = COMPRESS_ABOVE,
        feed_retention: timedelta | int | Mapping[str, Any] | None = None,
        signing_key: SigningKey | bytes | None = None,
        accepted_keys: Iterable[SigningKey] = (),
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        **client_options: Any,
    ) -> Self:
        """Returns a saver that opens its own sync and async connections at first use.

        `conn_string` is any URL that redis-py takes (`redis://`, `rediss://`, `unix://`),
        `redis+cluster://host:port,host:port`, or `redis+sentinel://host:port,host:port/service[/db]`. `rediss+...`
        stands for TLS. The class documents the named options. Other keywords, such as `socket_timeout`, go to
        redis-py's clients. No round trips.

        Raises `TypeError` or `InvalidArgument`; a message never holds a password.
        """
        options: SaverOptions = {
            "prefix": prefix,
            "partitions": partitions,
            "serde": serde,
            "trust_types": trust_types,
            "accept_plaintext": accept_plaintext,
            "ttl": ttl,
            "cache_bytes": cache_bytes,
            "compress_above": compress_above,
            "feed_retention": feed_retention,
            "signing_key": signing_key,
            "accepted_keys": accepted_keys,
            "limits": limits,
        }
        connections = Connections.from_url(conn_string, **client_options)
        return cls.__new__(cls)._open(connections, options, owns_connections=True)

    @classmethod
    def embedded(cls, path: str | PathLike[str] | None = None, **options: Unpack[SaverOptions]) -> Self:
        """Returns a saver with a private server for local work, on a unix socket.

        The server keeps its append-only file in the directory `path`, or in a temporary directory that `close` removes. Closing the
        saver stops the server. The options are those of the class. Needs the extra `embedded`.

        Raises `PathInUse` if another embedded server has `path` open, and as `EmbeddedServer`.
        """
        server = EmbeddedServer(path)
        try:
            connections = Connections.from_url(server.url)
            return cls.__new__(cls)._open(connections, options, owns_connections=True, server=server)
        except BaseException:
            server.close()
            raise

    def setup(self) -> Awaitable[None]:
        """Checks the server and the prefix now instead of at the first call.

        One round trip. The check is done, and its error raised, when this returns. The result may be awaited, which
        does nothing more.

        There is one exception, on the event loop of a saver that has only an async connection: `await
        saver.setup()` does the check there. Without `await`, the saver's first call does it.

        Raises `LayoutMismatch` or `ServerMisconfigured` if the prefix or the server does not fit.
        """
        if self._runner.must_await:
            return SetUp(self.asetup)
        self._runner.run(self._operations.check(), "setup")
        return SetUp()

    async def asetup(self) -> None:
        """Async form of `setup`."""
        await self._runner.arun(self._operations.check(), "setup")

    def close(self) -> None:
        """Closes the connections that this saver opened, and an embedded server.

        Its calls raise `SaverClosed` from then on. Connections that were passed stay open, and a saver on them
        keeps working. Closing twice is allowed.
        """
        self._runner.closed = self._owns_connections
        self._connections.close()
        if self._server is not None:
            self._server.close()

    async def aclose(self) -> None:
        """Async form of `close`."""
        self._runner.closed = self._owns_connections
        await self._connections.aclose()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        """Returns the saver."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes the saver."""
        self.close()

    async def __aenter__(self) -> Self:
        """Returns the saver."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes the saver."""
        await self.aclose()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Returns the checkpoint that the config names, or the latest of its namespace.

        The config's `checkpoint_id` names a checkpoint. Without one, the checkpoint with the greatest id is the
        latest. None if there is no such checkpoint.

        One round trip. The latest takes one more on a cluster, and one or two more if its head must be rebuilt from
        the log.
        """
        return self._runner.run(self._operations.get_tuple(self.serde, config), _subject(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async form of `get_tuple`."""
        return await self._runner.arun(self._operations.get_tuple(self.serde, config), _subject(config))

    def get_tuple_as_of(self, config: RunnableConfig, when: When) -> CheckpointTuple | None:
        """Returns the answer of `get_tuple` after the last event at or before a moment.

        A moment is a datetime with a time zone (by the server's clock), a sequence number, or a text. A text is a
        time in ISO 8601 with its zone, a duration such as "30m" for that long ago, an entry id, or a sequence
        number such as "17" or "@17". None if the config's namespace had no checkpoint yet. Reads the log alone.

        One round trip per 1000 events or 4 MiB up to the moment, and a few more. Memory: the index up to there, and
        the state.
        Raises `BeforeFirstEvent`, `ThreadNotFound`, or `EventGone` (reason "pruned") if a needed event was pruned
        since.
        """
        return self._runner.run(self._operations.get_tuple_as_of(self.serde, config, when), _subject(config))

    async def aget_tuple_as_of(self, config: RunnableConfig, when: When) -> CheckpointTuple | None:
        """Async form of `get_tuple_as_of`."""
        return await self._runner.arun(self._operations.get_tuple_as_of(self.serde, config, when), _subject(config))

    def replay(
        self, thread_id: str, *, namespace: str | None = None, since: When | None = None, until: When | None = None
    ) -> Iterator[Replayed]:
        """Yields each event of a thread's log, oldest first, with the state after it.

        The state is the answer that `get_tuple` would have given right after the event. `since` and `until` are
        moments as in `get_tuple_as_of`, both included. The replay ends with the last event that existed when it
        began.

        One round trip per 500 events or 1 MiB. Memory does not grow with the thread, except as
        `projections.time_travel.past` says.
        Raises `ThreadNotFound`, or `EventGone` if the thread is deleted meanwhile.
        """
        flow = self._operations.replay(self.serde, thread_id, namespace, since, until)
        yield from self._runner.iterate(flow, f"thread {thread_id!r}")

    async def areplay(
        self, thread_id: str, *, namespace: str | None = None, since: When | None = None, until: When | None = None
    ) -> AsyncIterator[Replayed]:
        """Async form of `replay`."""
        flow = self._operations.replay(self.serde, thread_id, namespace, since, until)
        async for event in self._runner.aiterate(flow, f"thread {thread_id!r}"):
            yield event

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Yields checkpoints, newest first by checkpoint id, read page by page.

        The config names a thread, and may name a namespace ("" for the root; without one, all) and a checkpoint id.
        Config None selects all threads. `before` keeps ids below its own. `filter` keeps checkpoints whose metadata
        has equal values under all its keys. `limit` counts the checkpoints that are kept.

        One round trip per page; with a filter, one more per page that has a match.
        """
        flow = self._operations.list(self.serde, config, filter, before, limit)
        yield from self._runner.iterate(flow, _subject(config))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Async form of `list`."""
        flow = self._operations.list(self.serde, config, filter, before, limit)
        async for found in self._runner.aiterate(flow, _subject(config)):
            yield found

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Returns the stored data from which LangGraph rebuilds `DeltaChannel`s.

        For each channel: the nearest stored value among the ancestors, and the ancestors' writes since then, oldest
        first. One round trip per 500 ancestors or 4 MiB.
        """
        return self._runner.run(self._operations.delta_history(self.serde, config, channels), _subject(config))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async form of `get_delta_channel_history`."""
        return await self._runner.arun(self._operations.delta_history(self.serde, config, channels), _subject(config))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Appends a checkpoint, and returns the config that names it.

        The config's `checkpoint_id` is the parent. A repeated put of the same checkpoint appends nothing. Another
        checkpoint under the same id replaces the first in reads.

        One round trip; two if the saver's cache of the thread is out of date, since the values are then sent again
        whole.
        Raises `ValueUnwritable` or `ValueTooLarge` before anything is appended.
        """
        flow = self._operations.put(self.serde, config, checkpoint, metadata, new_versions)
        return self._runner.run(flow, _subject(config))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Async form of `put`."""
        flow = self._operations.put(self.serde, config, checkpoint, metadata, new_versions)
        return await self._runner.arun(flow, _subject(config))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Appends the writes of a task to the config's checkpoint. One round trip.

        The checkpoint may arrive later. If a write is repeated, an ordinary one keeps its first value, and a
        special one (`WRITES_IDX_MAP`) takes its last.
        Raises `ValueUnwritable` or `ValueTooLarge` before anything is appended.
        """
        self._runner.run(self._operations.put_writes(self.serde, config, writes, task_id, task_path), _subject(config))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Async form of `put_writes`."""
        flow = self._operations.put_writes(self.serde, config, writes, task_id, task_path)
        await self._runner.arun(flow, _subject(config))

    def load_values(self, activity: Activity) -> Sequence[tuple[str, Any]]:
        """Returns the channels and deserialized values of an event that the feed reported.

        Empty for kinds of events without values. One round trip for writes, two for a checkpoint.
        Raises `EventGone` if the values are no longer stored.
        """
        flow = self._operations.values_of(self.serde, activity)
        return self._runner.run(flow, f"thread {activity.thread_id!r}")

    async def aload_values(self, activity: Activity) -> Sequence[tuple[str, Any]]:
        """Async form of `load_values`."""
        flow = self._operations.values_of(self.serde, activity)
        return await self._runner.arun(flow, f"thread {activity.thread_id!r}")

    def verify(self, thread_id: str, *, expected: Mapping[int, str] | None = None) -> Verified:
        """Verifies the numbers, digests and signatures of a thread's log.

        Signatures are verified with a `signing_key`. `expected` maps sequence numbers to digests that were kept
        elsewhere. The result's `findings` name each entry that is wrong by its entry id.
        `projections.integrity.verify` says what this cannot prove.

        Only reads: one round trip per 500 events or 1 MiB of the log, and one per 2,000 pointers of the partition's
        feed.
        Raises `ThreadNotFound`.
        """
        return self._runner.run(self._operations.verify(thread_id, expected), f"thread {thread_id!r}")

    async def averify(self, thread_id: str, *, expected: Mapping[int, str] | None = None) -> Verified:
        """Async form of `verify`."""
        return await self._runner.arun(self._operations.verify(thread_id, expected), f"thread {thread_id!r}")

    def delete_thread(self, thread_id: str) -> None:
        """Deletes every key of a thread, and leaves one tombstone in the feed.

        One round trip, two if the thread has subgraphs.
        """
        self._runner.run(self._operations.delete_thread(thread_id), f"thread {thread_id!r}")

    async def adelete_thread(self, thread_id: str) -> None:
        """Async form of `delete_thread`."""
        await self._runner.arun(self._operations.delete_thread(thread_id), f"thread {thread_id!r}")

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes the checkpoints and writes of runs, on any thread.

        A checkpoint belongs to the run that its metadata names as `run_id`. Values that checkpoints of other runs
        still need are kept. Two round trips, and per thread concerned those of `prune`.
        """
        self._runner.run(self._operations.delete_for_runs(self.serde, run_ids), f"runs {run_ids!r}")

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async form of `delete_for_runs`."""
        await self._runner.arun(self._operations.delete_for_runs(self.serde, run_ids), f"runs {run_ids!r}")

    def copy_thread(self, source_thread_id: str, target_thread_id: str, *, until: When | None = None) -> None:
        """Copies the history of a thread to a new thread, all of it or nothing.

        `until` is a moment as in `get_tuple_as_of`. The copy then ends with the event at that moment, and goes on
        from the latest checkpoint of that time. None copies the whole history. Metadata that names the source as
        its `thread_id` is read with the copy's id.

        Three round trips per 50 events or 4 MiB, and a few more.
        Raises `ThreadNotFound`, `ThreadExists`, or `CorruptEntry` if the log is damaged. With `until` also
        `HistoryGone` if some of that history was pruned since, and `InvalidArgument` if there is no such event.
        """
        flow = self._operations.copy_thread(source_thread_id, target_thread_id, until)
        self._runner.run(flow, f"thread {source_thread_id!r}")

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str, *, until: When | None = None) -> None:
        """Async form of `copy_thread`."""
        flow = self._operations.copy_thread(source_thread_id, target_thread_id, until)
        await self._runner.arun(flow, f"thread {source_thread_id!r}")

    def export_threads(
        self,
        path: str | PathLike[str],
        thread_ids: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
        damaged: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Exported:
        """Writes the logs of threads to a file.

        Returns how many threads and events the file has. Without `thread_ids` all threads are exported. Each log is
        checked on the way, as it stands when its turn comes. Values stay as they are stored, so an encrypted thread
        is encrypted in the file. `projections/transfer/format.py` describes the format.

        The file gets its name when it is whole and on the disk; until then it ends in ".part". The same call
        continues an interrupted export after the threads that have not changed since, which are checked again. Only
        this user can read the file, and links are not followed.

        A damaged log is an error if its thread is named, and is otherwise left out and reported in the result's
        `left_out`. With `damaged` such logs are written as they are, as evidence, which importing refuses.

        `progress` is called with a thread, the events done, and their number. The async form works on the file in
        threads, and calls `progress` on the event loop. One round trip per 200 events or 4 MiB, and a few per thread.
        Memory: such a page.
        Raises `FileTaken` if the file exists and `overwrite` is not set, or if its part is not one of this user's
        exports, `ThreadNotFound`, `CorruptEntry`, `LogLost`, and OSError if the file cannot be written.
        """
        flow = self._operations.export_threads(path, thread_ids, overwrite=overwrite, damaged=damaged)
        return self._runner.run(flow, f"export to {str(path)!r}", reporting(progress))

    async def aexport_threads(
        self,
        path: str | PathLike[str],
        thread_ids: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
        damaged: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Exported:
        """Async form of `export_threads`."""
        flow = self._operations.export_threads(path, thread_ids, overwrite=overwrite, damaged=damaged)
        return await self._runner.arun(flow, f"export to {str(path)!r}", reporting(progress))

    def import_threads(
        self,
        path: str | PathLike[str],
        thread_ids: Sequence[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Imported:
        """Puts threads of an export back with the same ids, numbers and digests.

        Returns how many threads and events it put back, and how many threads existed already. Such a thread has the
        same entries as the file, and may have more; it is left alone. The whole file is checked before anything is
        written. Each thread is put in place whole. The same call completes an interrupted import. The saver's ttl
        starts at the import. Signatures are kept; with a `signing_key` they are verified first, and the memory grows
        with the events of a thread.

        `progress` is as in `export_threads`. Two round trips per 50 events or 4 MiB, and a few per thread. Memory: such
        a page.
        Raises `ExportUnreadable` if the file is not a whole export, `ThreadNotFound` for a thread that it lacks,
        `ThreadExists` for a thread with another, a damaged or a pruned log, `SignatureInvalid` for one that is not signed
        as it should be, and OSError if the file cannot be read.
        """
        flow = self._operations.import_threads(path, thread_ids)
        return self._runner.run(flow, f"import of {str(path)!r}", reporting(progress))

    async def aimport_threads(
        self,
        path: str | PathLike[str],
        thread_ids: Sequence[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Imported:
        """Async form of `import_threads`."""
        flow = self._operations.import_threads(path, thread_ids)
        return await self._runner.arun(flow, f"import of {str(path)!r}", reporting(progress))

    def archive_thread(
        self,
        thread_id: str,
        path: str | PathLike[str],
        *,
        keep_last: int | None = None,
        delete: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Archived:
        """Exports a thread to a file, then prunes or deletes the thread.

        The file is read back and compared with the log before anything is removed. Returns the number of events in
        the file and of checkpoints removed. `keep_last` and the pruning are as in `prune`; `delete` deletes the
        thread. `progress` is as in `export_threads`. Only history that the file has is removed: if the log has moved on,
        it is exported again.

        Round trips: those of `export_threads` and `prune`, and one more per 50 events.
        Raises `ThreadBusy` if the log moved on at each attempt, and as `export_threads`.
        """
        flow = self._operations.archive_thread(self.serde, thread_id, path, keep_last=keep_last, delete=delete)
        return self._runner.run(flow, f"thread {thread_id!r}", reporting(progress))

    async def aarchive_thread(
        self,
        thread_id: str,
        path: str | PathLike[str],
        *,
        keep_last: int | None = None,
        delete: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Archived:
        """Async form of `archive_thread`."""
        flow = self._operations.archive_thread(self.serde, thread_id, path, keep_last=keep_last, delete=delete)
        return await self._runner.arun(flow, f"thread {thread_id!r}", reporting(progress))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int | None = None) -> None:
        """Removes old checkpoints of threads, and keeps the data that the others need.

        `"keep_latest"` keeps the newest checkpoint of each namespace, or the N newest with `keep_last=N`.
        `"delete"` deletes the threads; so does `"delete_all"`, the LangGraph server's name for it. Kept checkpoints
        keep their values, writes, and the ancestors of their delta channels.

        Round trips per thread: one per 1000 events or 4 MiB of its log, and one per 1000 checkpoints removed.
        Raises `ThreadBusy` if other writers kept changing a thread.
        """
        flow = self._operations.prune(self.serde, thread_ids, strategy, keep_last)
        self._runner.run(flow, f"threads {thread_ids!r:.200}")

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int | None = None
    ) -> None:
        """Async form of `prune`."""
        flow = self._operations.prune(self.serde, thread_ids, strategy, keep_last)
        await self._runner.arun(flow, f"threads {thread_ids!r:.200}")

    def threads(self, *, since: datetime | None = None, limit: int | None = None) -> Iterator[ThreadInfo]:
        """Yields the threads that have a checkpoint, the last active first. Only reads.

        `since` keeps threads that were active at that time or later, `limit` that many. One round trip per
        partition, and three per page of threads of a partition.
        """
        yield from self._runner.iterate(self._operations.threads(since, limit), "all threads")

    async def athreads(self, *, since: datetime | None = None, limit: int | None = None) -> AsyncIterator[ThreadInfo]:
        """Async form of `threads`."""
        async for found in self._runner.aiterate(self._operations.threads(since, limit), "all threads"):
            yield found

    def check(self, thread_id: str) -> Checked:
        """Compares the views of a thread with a fold of its log. Only reads.

        Returns the differences. Agents may write meanwhile. One round trip per 1000 events or 4 MiB of the log, one
        per 1000 names in the index, and two per namespace. Memory: the index, which grows with the checkpoints.
        Raises `ThreadNotFound` or `ThreadBusy`.
        """
        return self._runner.run(self._operations.check_thread(thread_id), f"thread {thread_id!r}")

    async def acheck(self, thread_id: str) -> Checked:
        """Async form of `check`."""
        return await self._runner.arun(self._operations.check_thread(thread_id), f"thread {thread_id!r}")

    def rebuild(self, thread_id: str) -> Rebuilt:
        """Rebuilds the views of a thread, and the registry of its partition.

        The log gives the views, the feed gives the registry. Agents may read and write meanwhile; they see the old
        views or the new ones. Two round trips per 1000 events or 4 MiB of the log, two per namespace, and one per
        1000 events of the partition's feed. Memory: some pages of the log, and one state at a time.
        Raises `ThreadNotFound`, `LogLost`, `CorruptEntry` or `ThreadBusy`.
        """
        return self._runner.run(self._operations.rebuild_thread(thread_id), f"thread {thread_id!r}")

    async def arebuild(self, thread_id: str) -> Rebuilt:
        """Async form of `rebuild`."""
        return await self._runner.arun(self._operations.rebuild_thread(thread_id), f"thread {thread_id!r}")

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002
        """Returns a version greater than `current` that no fork shares.

        LangGraph's own savers can continue it; `saver.versions` has the form.
        """
        return cast("str", next_version(current))

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...] | type]) -> Self:
        """Returns a saver that may revive these types too: pairs of module and name, or classes.

        A `StrictSerializer`, the default, adds the types, and this saver is returned. LangGraph calls this with the types of
        a graph's schemas. A `JsonPlusSerializer` of the caller gives a copy of the saver on the same connections. Any other
        serde stays as it is.
        """
        if not takes_allowlist(self.serde):
            return self
        return cast("Self", super().with_allowlist(cast("Collection[tuple[str, ...]]", extra_allowlist)))


def _subject(config: Any) -> str:
    """Returns the words by which errors name the thread of a call."""
    if config is None:
        return "all threads"
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    return (
        f"thread {configurable.get('thread_id')!r}" if isinstance(configurable, Mapping) else f"config {config!r:.80}"
    )
