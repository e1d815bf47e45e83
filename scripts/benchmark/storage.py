"""The storage of a growing chat: memory, files, tables, and bytes per step.

The Redis figures come from a private server with an append-only file (`appendfsync everysec`, never rewritten). Memory is the
growth of the server's `used_memory` without the buffers of clients and of the append-only file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Collection, Iterator
from typing import Any

import redis

from scripts.benchmark.book import Sample, figure
from scripts.benchmark.clock import quiet, tidy
from scripts.benchmark.plan import Run, Runner
from scripts.benchmark.savers import MEMORY, THIS, Kind
from scripts.benchmark.servers import BenchError, Servers, private_server
from scripts.benchmark.traffic import Traffic, chat

__all__ = ["AOF", "STORED", "storage"]

STORED = figure("storage.stored", "stored after all steps", "bytes")
AOF = figure("storage.aof", "appended to the append-only file per step", "bytes")


def storage(run: Run) -> None:
    """Measure each saver alone on its server, and this saver up to `plan.long_steps`."""
    plan = run.plan
    traffic = chat(plan.seed, max(plan.steps, plan.long_steps))
    kinds = [kind for name, kind in run.kinds.items() if name != MEMORY]
    lengths = {kind.name: len(traffic) if kind.name == THIS else plan.steps for kind in kinds}
    run.stage("storage", sum(lengths.values()), 0.2)
    with contextlib.ExitStack() as stack, quiet():
        try:
            server = stack.enter_context(_with_append_only_file())
        except (BenchError, RuntimeError) as error:
            for kind in kinds:
                run.fail("storage.*", kind.name, error)
            return
        private = dataclasses.replace(run, servers=dataclasses.replace(run.servers, url=server))
        run.book.notes.append(f"storage: {private.servers.described()} with appendonly yes, appendfsync everysec")
        for kind in kinds:
            sizes = plan.long_sizes if kind.name == THIS else plan.sizes
            _fill(private, kind, traffic.first(lengths[kind.name]), sizes)
            tidy()
    run.done()


@contextlib.contextmanager
def _with_append_only_file() -> Iterator[str]:
    arguments = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
    with private_server(*arguments) as server:
        yield server.url


def _fill(run: Run, kind: Kind, traffic: Traffic, sizes: Collection[int]) -> None:
    with run.runners("storage", [kind], traffic, "stored") as runners:
        for runner in runners:
            with run.reported("storage.*", kind.name):
                _grow(run, runner, sizes)


def _grow(run: Run, runner: Runner, sizes: Collection[int]) -> None:
    empty, appended = _stored(run.servers, runner.kind), _appended(run.servers)
    for n in range(len(runner.replay.traffic)):
        runner.replay.store(n)
        if runner.kind.on_redis:
            before, appended = appended, _appended(run.servers)
            run.book.add(AOF, runner.name, Sample(0, n + 1, appended - before))
        if n + 1 in sizes:
            run.book.add(STORED, runner.name, Sample(0, n + 1, _stored(run.servers, runner.kind) - empty))
        run.tick()


def _appended(servers: Servers) -> int:
    info = servers.redis.info("persistence")
    return int(info["aof_current_size"]) + int(info["aof_buffer_length"])


def _stored(servers: Servers, kind: Kind) -> int:
    if kind.name == "sqlite":
        return _file_size(servers)
    if kind.name == "postgres":
        return _relation_size(str(servers.postgres_url))
    if kind.name == "redis":
        with contextlib.closing(redis.Redis.from_url(str(servers.modules_url))) as client:
            return _used(client)
    return _used(servers.redis)


def _used(client: Any) -> int:
    info = client.info("memory")
    return int(info["used_memory"]) - int(info["mem_clients_normal"]) - int(info.get("mem_aof_buffer", 0))


def _file_size(servers: Servers) -> int:
    with contextlib.closing(sqlite3.connect(servers.sqlite_path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(path.stat().st_size for path in servers.folder.glob("checkpoints.sqlite*"))


def _relation_size(url: str) -> int:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class "
            "WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace"
        ).fetchone()
    return int(row[0]) if row else 0
