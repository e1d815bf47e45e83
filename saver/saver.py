"""RedisStreamSaver: the LangGraph face of the log.

Every method hands the operation's flow (`saver.operations`) to the runner (`transport.drivers`), in one colour or the other.
"""

from __future__ import annotations

from collections import deque
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
from typing_extensions import Self

from eventlog.codec import NEVER
from eventlog.connect.connections import Connections
from eventlog.errors import InvalidArgument
from eventlog.feed.activity import Activity
from eventlog.feed.trimming import Retention
from eventlog.flow import Flow
from eventlog.keys import PARTITIONS, PREFIX, Keyspace
from eventlog.signing import Signer, SigningKey
from eventlog.transport.drivers import Runner
from projections.integrity.findings import Verified
from projections.maintenance.check import Checked
from projections.maintenance.rebuild import Rebuilt
from projections.registry.listing import ThreadInfo
from projections.time_travel.moment import When
from projections.transfer.archive import Archived
from projections.transfer.blocking import ProgressCallback, acarry_out, carry_out
from projections.transfer.export import Exported
from projections.transfer.import_ import Imported
from projections.values.cache import CACHE_BYTES, COMPRESS_ABOVE, ValueCache
from saver.embedded import EmbeddedServer
from saver.history import Replayed
from saver.operations import Operations
from saver.setting_up import SetUp
from saver.ttl import TimeToLive
from saver.versions import next_version

__all__ = ["RedisStreamSaver"]


class RedisStreamSaver(BaseCheckpointSaver[str], AbstractContextManager, AbstractAsyncContextManager):  # type: ignore[type-arg]
    """A LangGraph checkpointer whose truth is one append-only Redis Stream per thread.

    Sync and async methods work on the same saver, from any number of threads and tasks. No set-up step is needed: the first call
    checks the server, in one round trip more than the call itself takes.

    Args:
        sync_connection: a `redis.Redis`, `redis.ConnectionPool`, `redis.RedisCluster`, or a client that Sentinel manages.
        async_connection: the asyncio twin of one. At least one of the two is needed; with one only, the other colour's methods
            work where they honestly can: async over sync in a thread, sync over async from another thread than the loop's.
        prefix: what every key begins with. Savers with different prefixes know nothing of each other.
        partitions: over how many hash tags threads are spread, fixed at the first use of a prefix.
        serde: serializer of values; an `EncryptedSerializer` encrypts metadata as well.
        ttl: minutes a thread lives after its last write, or `{"default_ttl": minutes, "refresh_on_read": True}`.
        cache_bytes: most bytes of what was last read and written that are kept to make deltas against, for all threads together;
            with 0 every value is stored whole.
        compress_above: values, and deltas, of more bytes than this lie in the log compressed with Zstandard; None: none do.
        feed_retention: how much of the feed is kept: a timedelta, a number of events, or `{"age": timedelta or seconds, "count":
            number}`; None keeps all. Never trims what a consumer group still needs; thread logs are never trimmed by it. Puts trim
            as they go along, each partition every five seconds or 500 puts, in one round trip more.
        signing_key: a `SigningKey`, or a secret of 16 bytes or more for HMAC: what is appended is signed, and what is read is
            refused unless it is signed, before any of it is deserialized. Reads then go to the log, in a few round trips, and not
            to heads. A thread is signed from its beginning or not at all.
        accepted_keys: further keys whose signatures are accepted: those of before, or of other writers.

    Raises:
        TypeError, InvalidArgument: an argument is not what it should be; the message names the remedy.

    What was given is never closed; what `from_conn_string` and `embedded` opened is, by `close`, `aclose` or `with`.
    Every method raises `eventlog.errors.EventLogError` of a kind that says what to do when the server, or what it holds, stands in
    the way; never does a failure look like a thread without checkpoints.

    """

    def __init__(
        self,
        sync_connection: Any = None,
        async_connection: Any = None,
        *,
        prefix: str = PREFIX,
        partitions: int = PARTITIONS,
        serde: SerializerProtocol | None = None,
        ttl: float | Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
        compress_above: int | None = COMPRESS_ABOVE,
        feed_retention: timedelta | int | Mapping[str, Any] | None = None,
        signing_key: SigningKey | bytes | None = None,
        accepted_keys: Iterable[SigningKey] = (),
    ) -> None:
        connections = Connections(sync_connection, async_connection)
        self._open(
            connections,
            prefix=prefix,
            partitions=partitions,
            serde=serde,
            ttl=ttl,
            cache_bytes=cache_bytes,
            compress_above=compress_above,
            feed_retention=feed_retention,
            signing_key=signing_key,
            accepted_keys=accepted_keys,
        )

    def _open(
        self,
        connections: Connections,
        *,
        prefix: str,
        partitions: int,
        serde: SerializerProtocol | None,
        ttl: float | Mapping[str, Any] | None,
        cache_bytes: int,
        compress_above: int | None,
        feed_retention: timedelta | int | Mapping[str, Any] | None,
        signing_key: SigningKey | bytes | None,
        accepted_keys: Iterable[SigningKey],
        server: EmbeddedServer | None = None,
    ) -> None:
        if serde is not None and not (hasattr(serde, "dumps_typed") or hasattr(serde, "dumps")):
            raise TypeError(f"serde must be a serializer (dumps_typed and loads_typed), not {type(serde).__name__}.")
        super().__init__(serde=serde)
        self._connections = connections
        self._runner = Runner(connections)
        self._operations = Operations(
            Keyspace(prefix, partitions, _signer_of(signing_key, accepted_keys)),
            TimeToLive.of(ttl),
            _cache_of(cache_bytes, compress_above),
            Retention.of(feed_retention),
        )
        self._server = server
        self._owns = False

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        prefix: str = PREFIX,
        partitions: int = PARTITIONS,
        serde: SerializerProtocol | None = None,
        ttl: float | Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
        compress_above: int | None = COMPRESS_ABOVE,
        feed_retention: timedelta | int | Mapping[str, Any] | None = None,
        signing_key: SigningKey | bytes | None = None,
        accepted_keys: Iterable[SigningKey] = (),
        **client_options: Any,
    ) -> Self:
        """A saver that opens its own connections, both colours, at first use, and closes them.

        `conn_string` is any URL redis-py takes (redis://, rediss://, unix://), `redis+cluster://host:port,host:port` or
        `redis+sentinel://host:port,host:port/service[/db]` (and `rediss+...`). Other keywords go to redis-py's clients.
        """
        made = cls.__new__(cls)
        connections = Connections.from_url(conn_string, **client_options)
        made._open(
            connections,
            prefix=prefix,
            partitions=partitions,
            serde=serde,
            ttl=ttl,
            cache_bytes=cache_bytes,
            compress_above=compress_above,
            feed_retention=feed_retention,
            signing_key=signing_key,
            accepted_keys=accepted_keys,
        )
        made._owns = True
        return made

    @classmethod
    def embedded(
        cls,
        path: str | PathLike[str] | None = None,
        *,
        prefix: str = PREFIX,
        partitions: int = PARTITIONS,
        serde: SerializerProtocol | None = None,
        ttl: float | Mapping[str, Any] | None = None,
        cache_bytes: int = CACHE_BYTES,
        compress_above: int | None = COMPRESS_ABOVE,
        feed_retention: timedelta | int | Mapping[str, Any] | None = None,
        signing_key: SigningKey | bytes | None = None,
        accepted_keys: Iterable[SigningKey] = (),
    ) -> Self:
        """A saver with a private server, for local work: it starts one on a unix socket and stops it.

        The append-only file lies under `path`, or in a temporary directory that is removed. Needs the extra `embedded`.
        Raises `PathInUse` if the path is opened already.
        """
        server = EmbeddedServer(path)
        try:
            made = cls.__new__(cls)
            connections = Connections.from_url(server.url)
            made._open(
                connections,
                prefix=prefix,
                partitions=partitions,
                serde=serde,
                ttl=ttl,
                cache_bytes=cache_bytes,
                compress_above=compress_above,
                feed_retention=feed_retention,
                signing_key=signing_key,
                accepted_keys=accepted_keys,
                server=server,
            )
            made._owns = True
        except BaseException:
            server.close()
            raise
        return made

    def setup(self) -> Awaitable[None]:
        """Checks server and prefix now rather than at the first call. One round trip.

        The check is done, and its error raised, when this returns; awaiting the result is allowed and then does nothing.
        One case differs: inside the event loop of a saver that has only an async connection, `await saver.setup()` does the
        check. Without `await` the saver's first call does it there.

        Raises `LayoutMismatch` or `ServerMisconfigured` where they do not fit.
        """
        if self._runner.must_await:
            return SetUp(self.asetup)
        self._runner.run(self._operations.check(), "setup")
        return SetUp()

    async def asetup(self) -> None:
        """Async twin of `setup`."""
        await self._runner.arun(self._operations.check(), "setup")

    def close(self) -> None:
        """Closes what this saver opened, after which its calls raise `SaverClosed`; may be called twice.

        Connections it was given stay open, and a saver on them goes on working.
        """
        self._runner.closed = self._owns
        self._connections.close()
        if self._server is not None:
            self._server.close()

    async def aclose(self) -> None:
        """Async twin of `close`."""
        self._runner.closed = self._owns
        await self._connections.aclose()
        if self._server is not None:
            self._server.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes."""
        self.close()

    async def __aenter__(self) -> Self:
        """Itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None:
        """Closes."""
        await self.aclose()

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint with the config's `checkpoint_id`, or that with the greatest id of its namespace; None if there is none.

        One round trip; for the latest, one more on a cluster, and one or two more where its head has to be put together from the
        log.
        """
        return self._runner.run(self._operations.get_tuple(self.serde, config), _subject(config))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """Async twin of `get_tuple`."""
        return await self._runner.arun(self._operations.get_tuple(self.serde, config), _subject(config))

    def get_tuple_as_of(self, config: RunnableConfig, when: When) -> CheckpointTuple | None:
        """What `get_tuple` would have answered after the last event at or before a moment.

        A moment is a datetime with a time zone (by the server's clock), a sequence number, or a text: a time in ISO 8601 with its
        zone, a duration such as "30m" for that long ago, an entry id, or a sequence number such as "17" or "@17".
        None if the config's namespace had no checkpoint yet. Reads the log alone.

        One round trip per 1000 events or 4 MiB up to the moment, and a few more. Memory: the index up to there, and the state.
        Raises `BeforeFirstEvent`, `EventGone` (reason "pruned") where what is needed was pruned since, or `ThreadNotFound`.
        """
        return self._runner.run(self._operations.get_tuple_as_of(self.serde, config, when), _subject(config))

    async def aget_tuple_as_of(self, config: RunnableConfig, when: When) -> CheckpointTuple | None:
        """Async twin of `get_tuple_as_of`."""
        return await self._runner.arun(self._operations.get_tuple_as_of(self.serde, config, when), _subject(config))

    def replay(
        self, thread_id: str, *, namespace: str | None = None, since: When | None = None, until: When | None = None
    ) -> Iterator[Replayed]:
        """Each event of a thread's log once more, oldest first, with what `get_tuple` would have answered right after it.

        `since` and `until` are moments as of `get_tuple_as_of`, both included. Ends with the last event there was when it began.
        Round trips: one per 500 events or 1 MiB. Memory does not grow with the thread, but for what `time_travel.past` says.
        Raises `ThreadNotFound`, or `EventGone` if the thread is deleted meanwhile.
        """
        flow = self._operations.replay(self.serde, thread_id, namespace, since, until)
        yield from self._runner.iterate(flow, f"thread {thread_id!r}")

    async def areplay(
        self, thread_id: str, *, namespace: str | None = None, since: When | None = None, until: When | None = None
    ) -> AsyncIterator[Replayed]:
        """Async twin of `replay`."""
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
        """The checkpoints of a thread (of all if config is None), newest first by checkpoint id, read as they are asked for.

        The config may name a namespace (absent: all of them, "" the root) and a checkpoint id. `before` keeps ids below its own.
        `filter` keeps checkpoints whose metadata has equal values under all its keys; `limit` counts what is kept.
        Round trips: one per page; with a filter one more per page that something is kept of.
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
        """Async twin of `list`."""
        flow = self._operations.list(self.serde, config, filter, before, limit)
        async for found in self._runner.aiterate(flow, _subject(config)):
            yield found

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What `DeltaChannel`s are rebuilt from: the nearest stored value above, and the ancestors' writes since, oldest first.

        One round trip per 500 ancestors or 4 MiB.
        """
        return self._runner.run(self._operations.delta_history(self.serde, config, channels), _subject(config))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """Async twin of `get_delta_channel_history`."""
        return await self._runner.arun(self._operations.delta_history(self.serde, config, channels), _subject(config))

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Appends a checkpoint, whose parent is the config's `checkpoint_id`; the config that names it. One round trip; two where
        what this saver knows of the thread is out of date, so that values go again whole.

        Putting the same checkpoint again appends nothing; putting another under the same id replaces it in reads.
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
        """Async twin of `put`."""
        flow = self._operations.put(self.serde, config, checkpoint, metadata, new_versions)
        return await self._runner.arun(flow, _subject(config))

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Appends writes of a task to the config's checkpoint, which may not have arrived yet. One round trip.

        Of an ordinary write that is repeated the first counts, of a special one (`WRITES_IDX_MAP`) the last.
        """
        self._runner.run(self._operations.put_writes(self.serde, config, writes, task_id, task_path), _subject(config))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Async twin of `put_writes`."""
        flow = self._operations.put_writes(self.serde, config, writes, task_id, task_path)
        await self._runner.arun(flow, _subject(config))

    def load_values(self, activity: Activity) -> Sequence[tuple[str, Any]]:
        """The values behind an activity of the feed, deserialized: channels and values that its event brought.

        A round trip for writes, two for a checkpoint; empty for other kinds. Raises `EventGone` where they are no longer there.
        """
        flow = self._operations.values_of(self.serde, activity)
        return self._runner.run(flow, f"thread {activity.thread_id!r}")

    async def aload_values(self, activity: Activity) -> Sequence[tuple[str, Any]]:
        """Async twin of `load_values`."""
        flow = self._operations.values_of(self.serde, activity)
        return await self._runner.arun(flow, f"thread {activity.thread_id!r}")

    def verify(self, thread_id: str, *, expected: Mapping[int, str] | None = None) -> Verified:
        """Whether a thread's log is as it was written: every entry's number, digest and, with a `signing_key`, signature.

        `expected`: digests by sequence number that were kept elsewhere. What is not in order is in the result's `findings`, each
        with its entry id; what this does not prove is told in `integrity.verify`. Only reads: a round trip per 500 events or 1
        MiB of the log, and per 2,000 pointers of the partition's feed. Raises `ThreadNotFound`.
        """
        return self._runner.run(self._operations.verify(thread_id, expected), f"thread {thread_id!r}")

    async def averify(self, thread_id: str, *, expected: Mapping[int, str] | None = None) -> Verified:
        """Async twin of `verify`."""
        return await self._runner.arun(self._operations.verify(thread_id, expected), f"thread {thread_id!r}")

    def delete_thread(self, thread_id: str) -> None:
        """Deletes every key of a thread, and leaves one tombstone in the feed. One round trip, two if it has subgraphs."""
        self._runner.run(self._operations.delete_thread(thread_id), f"thread {thread_id!r}")

    async def adelete_thread(self, thread_id: str) -> None:
        """Async twin of `delete_thread`."""
        await self._runner.arun(self._operations.delete_thread(thread_id), f"thread {thread_id!r}")

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Deletes the checkpoints whose metadata names one of the runs, with their writes, on any thread.

        Values that checkpoints of other runs still have are kept. Two round trips, and per thread concerned those of `prune`.
        """
        self._runner.run(self._operations.delete_for_runs(self.serde, run_ids), f"runs {run_ids!r}")

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Async twin of `delete_for_runs`."""
        await self._runner.arun(self._operations.delete_for_runs(self.serde, run_ids), f"runs {run_ids!r}")

    def copy_thread(self, source_thread_id: str, target_thread_id: str, *, until: When | None = None) -> None:
        """Copies a thread's history to one that does not exist: all of it or nothing.

        `until`: a moment as of `get_tuple_as_of`; only what happened up to then is copied, the event that it names included.
        The copy is the thread as it was then, and goes on from the latest checkpoint it had. None copies all.
        Where metadata names the source as its `thread_id`, reads of the copy give the copy's id.
        Three round trips per 50 events or 4 MiB, and a few more.

        Raises `ThreadNotFound` or `ThreadExists`, `CorruptEntry` for a log that is damaged; with `until`, `HistoryGone` if some of
        that history was pruned since, and `InvalidArgument` where there is no such event.
        """
        flow = self._operations.copy_thread(source_thread_id, target_thread_id, until)
        self._runner.run(flow, f"thread {source_thread_id!r}")

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str, *, until: When | None = None) -> None:
        """Async twin of `copy_thread`."""
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
        """Writes the logs of threads, of all without `thread_ids`, to a file, checked on the way; how many threads and events.

        Each thread as it stands when it is its turn. The file is written as `path` with ".part" behind it, and renamed once it is
        whole and on the disk. An export that was cut short is continued by the same call, behind the threads that have not changed
        since. A log that is damaged is an error where its thread is named; of all threads it is left out, which the result's
        `left_out` says. With `damaged` such logs are written as they are, as evidence: importing refuses them.
        Values stay as they are stored: an encrypted thread is encrypted in the file. The form:
        `projections/transfer/format.py`. `progress` is called with a thread, the events done and of how many. One round trip per
        200 events or 4 MiB, and a few per thread. Memory: such a page.

        Raises `FileTaken` if the file exists, `ThreadNotFound`, `CorruptEntry`, `LogLost`, and OSError where the file cannot be
        written.
        """
        flow = self._operations.export_threads(path, thread_ids, overwrite=overwrite, damaged=damaged)
        return self._carry_out(flow, f"export to {str(path)!r}", progress)  # type: ignore[no-any-return]

    async def aexport_threads(
        self,
        path: str | PathLike[str],
        thread_ids: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
        damaged: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Exported:
        """Async twin of `export_threads`; the file is written in threads, `progress` is called on the loop."""
        flow = self._operations.export_threads(path, thread_ids, overwrite=overwrite, damaged=damaged)
        return await self._acarry_out(flow, f"export to {str(path)!r}", progress)  # type: ignore[no-any-return]

    def import_threads(
        self,
        path: str | PathLike[str],
        thread_ids: Sequence[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Imported:
        """Puts threads of an export back exactly: the same ids, numbers and digests; how many, and how many were there already.

        The whole file is checked before anything is put in place. Each thread is put in place whole; after an import that was cut
        short the same call does the rest. A thread that is there, entry by entry as the file has it, is passed over, also if it has
        gone on since. The saver's ttl, if it has one, begins then.
        Two round trips per 50 events or 4 MiB, and a few per thread. Memory: such a page.

        Raises `ExportUnreadable` for a file that is no whole export, `ThreadNotFound` for a thread that it lacks, `ThreadExists`
        for one that is there with another log, a damaged or a pruned one too, and OSError where the file cannot be read.
        """
        flow = self._operations.import_threads(path, thread_ids)
        return self._carry_out(flow, f"import of {str(path)!r}", progress)  # type: ignore[no-any-return]

    async def aimport_threads(
        self,
        path: str | PathLike[str],
        thread_ids: Sequence[str] | None = None,
        *,
        progress: ProgressCallback | None = None,
    ) -> Imported:
        """Async twin of `import_threads`; the file is read in threads, `progress` is called on the loop."""
        flow = self._operations.import_threads(path, thread_ids)
        return await self._acarry_out(flow, f"import of {str(path)!r}", progress)  # type: ignore[no-any-return]

    def archive_thread(
        self,
        thread_id: str,
        path: str | PathLike[str],
        *,
        keep_last: int | None = None,
        delete: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Archived:
        """Exports a thread, reads the file back and holds it against the log, and only then prunes the thread as `prune` does, or
        deletes it; how many events the file has, and how many checkpoints were removed.

        Nothing is removed that the file lacks: if the log has moved on, it is exported anew. Round trips: those of
        `export_threads` and `prune`, and one more per 50 events.

        Raises `ThreadBusy` if it moved on each time, and as `export_threads`.
        """
        flow = self._operations.archive_thread(self.serde, thread_id, path, keep_last=keep_last, delete=delete)
        return self._carry_out(flow, f"thread {thread_id!r}", progress)  # type: ignore[no-any-return]

    async def aarchive_thread(
        self,
        thread_id: str,
        path: str | PathLike[str],
        *,
        keep_last: int | None = None,
        delete: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Archived:
        """Async twin of `archive_thread`."""
        flow = self._operations.archive_thread(self.serde, thread_id, path, keep_last=keep_last, delete=delete)
        return await self._acarry_out(flow, f"thread {thread_id!r}", progress)  # type: ignore[no-any-return]

    def _carry_out(self, flow: Flow[None], subject: str, progress: ProgressCallback | None) -> Any:
        """What a flow that works on a file emits last."""
        return deque(carry_out(self._runner, flow, subject, progress), maxlen=1).pop()

    async def _acarry_out(self, flow: Flow[None], subject: str, progress: ProgressCallback | None) -> Any:
        return [item async for item in acarry_out(self._runner, flow, subject, progress)].pop()

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int | None = None) -> None:
        """Removes old checkpoints of threads, and keeps what the others need: unchanged values, writes, delta channels' ancestors.

        `"keep_latest"` keeps the newest of each namespace, with `keep_last=N` the N newest; `"delete"` deletes the threads.
        `"delete_all"`, the LangGraph server's name, means the same as `"delete"`.
        Round trips per thread: one per 1000 events or 4 MiB of its log, and one per 1000 checkpoints removed.
        Raises `ThreadBusy` if other writers kept changing a thread meanwhile.
        """
        flow = self._operations.prune(self.serde, thread_ids, strategy, keep_last)
        self._runner.run(flow, f"threads {thread_ids!r:.200}")

    async def aprune(
        self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int | None = None
    ) -> None:
        """Async twin of `prune`."""
        flow = self._operations.prune(self.serde, thread_ids, strategy, keep_last)
        await self._runner.arun(flow, f"threads {thread_ids!r:.200}")

    def threads(self, *, since: datetime | None = None, limit: int | None = None) -> Iterator[ThreadInfo]:
        """The threads that have a checkpoint, those last active first, read as they are asked for. Only reads.

        `since` keeps those active at that time or later. One round trip per partition, then three per page of some threads of it.
        """
        yield from self._runner.iterate(self._operations.threads(since, limit), "all threads")

    async def athreads(self, *, since: datetime | None = None, limit: int | None = None) -> AsyncIterator[ThreadInfo]:
        """Async twin of `threads`."""
        async for found in self._runner.aiterate(self._operations.threads(since, limit), "all threads"):
            yield found

    def check(self, thread_id: str) -> Checked:
        """Compares what is stored of a thread beside its log with a fold of the log; what differs. Only reads.

        Agents may write meanwhile. One round trip per 1000 events or 4 MiB of the log, one per 1000 names in its index, and two
        per namespace. Memory: the index, which grows with the checkpoints. Raises `ThreadNotFound` or `ThreadBusy`.
        """
        return self._runner.run(self._operations.check_thread(thread_id), f"thread {thread_id!r}")

    async def acheck(self, thread_id: str) -> Checked:
        """Async twin of `check`."""
        return await self._runner.arun(self._operations.check_thread(thread_id), f"thread {thread_id!r}")

    def rebuild(self, thread_id: str) -> Rebuilt:
        """Makes all that is stored of a thread beside its log anew from the log, and the registry of its partition from the feed.

        Agents may write and read meanwhile: they find what was there before, or what is there then. Two round trips per 1000
        events or 4 MiB of the log, two per namespace, and those of the registry: one per 1000 events of the partition's feed.
        Memory: some pages of the log, and a state at a time. Raises `ThreadNotFound`, `LogLost`, `CorruptEntry` or `ThreadBusy`.
        """
        return self._runner.run(self._operations.rebuild_thread(thread_id), f"thread {thread_id!r}")

    async def arebuild(self, thread_id: str) -> Rebuilt:
        """Async twin of `rebuild`."""
        return await self._runner.arun(self._operations.rebuild_thread(thread_id), f"thread {thread_id!r}")

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002
        """A version greater than `current`, unique across forks, that LangGraph's own savers continue. See `saver.versions`."""
        return cast("str", next_version(current))

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> Self:
        """A saver on the same connections whose serializer may revive these types too."""
        return cast("Self", super().with_allowlist(extra_allowlist))


def _cache_of(cache_bytes: int, compress_above: int | None) -> ValueCache:
    for name, value in (("cache_bytes", cache_bytes), ("compress_above", compress_above)):
        if value is None and name == "compress_above":
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int (bytes), not {type(value).__name__}.")
        if value < 0:
            raise InvalidArgument(f"{name} must be 0 or more bytes, not {value}.")
    return ValueCache(cache_bytes, NEVER if compress_above is None else compress_above)


def _subject(config: Any) -> str:
    """How errors name what a call was about."""
    if config is None:
        return "all threads"
    configurable = config.get("configurable") if isinstance(config, Mapping) else None
    return (
        f"thread {configurable.get('thread_id')!r}" if isinstance(configurable, Mapping) else f"config {config!r:.80}"
    )


def _signer_of(key: SigningKey | bytes | None, accepted: Iterable[SigningKey]) -> Signer | None:
    if key is None:
        if list(accepted):
            raise InvalidArgument(
                "accepted_keys go with a signing_key; an auditor passes a public half as signing_key."
            )
        return None
    return Signer(SigningKey.hmac(key) if isinstance(key, (bytes, bytearray)) else key, accepted)
