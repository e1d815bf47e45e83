"""The cost of audit: digests and signatures of a put, and reading a whole log.

`scripts/bench --audit` runs this alone. It also measures the memory that reading takes.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import secrets
import tempfile
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6

from eventlog.codec import content_digest
from eventlog.signing import SigningKey
from saver import RedisStreamSaver
from scripts.benchmark.book import Book, Sample
from scripts.benchmark.clock import quiet, tidy, timed
from scripts.benchmark.plan import rotated
from scripts.benchmark.puts import Case, measure_puts, opened
from scripts.benchmark.rows import Bench, Row, Rows, measure_rows
from scripts.benchmark.servers import Servers
from scripts.benchmark.traffic import counter

__all__ = ["AuditPlan", "measure_audit"]

NONE, HMAC, ED25519, LINK = "not signed", "HMAC", "Ed25519", "of this, the chain's digests"
PUT, READ, MEMORY = "put", "events per second", "growth"
THREAD = "agent"
VERIFY, VERIFY_HMAC, REBUILD, CHECK = "verify", "verify, HMAC", "rebuild", "check"
READS = (VERIFY, VERIFY_HMAC, REBUILD, CHECK)
KEPT = ("verify", "rebuild", "check", "export", "replay")
SECRET = secrets.token_bytes(32)
DIGESTS = """
for i = 1, tonumber(ARGV[1]) do redis.sha1hex(ARGV[2]) end
return 1
"""


@dataclass(frozen=True)
class AuditPlan:
    """Sizes and repetitions."""

    puts: int = 3000
    block: int = 50
    """Puts of one variant before the turn of the next variant."""
    events: int = 10_000
    """Events of the thread that is read."""
    rounds: int = 5
    short: int = 4000
    long: int = 100_000
    """Events of two threads. The report says how much more memory the longer thread takes."""

    def quick(self) -> AuditPlan:
        """Return the plan with fewer repetitions."""
        return replace(self, puts=600, events=4000, rounds=3, long=12_000)


def signing(plan: AuditPlan, servers: Servers, book: Book) -> None:
    """Measure puts without a key and with a key of each kind, and the digests alone."""
    keys: dict[str, dict[str, Any]] = {
        NONE: {},
        HMAC: {"signing_key": SECRET},
        ED25519: {"signing_key": SigningKey.ed25519(Ed25519PrivateKey.generate())},
    }
    traffic = counter(plan.puts + plan.block)
    with contextlib.ExitStack() as stack:
        cases = [
            opened(servers, stack, traffic, name, "put-" + name.replace(" ", "-"), **options)
            for name, options in keys.items()
        ]
        for case in cases:
            for _ in range(plan.block):
                case.saver.put(*case.arguments())
        measure_puts(book, PUT, cases, plan.puts, block=plan.block)
        _digests(plan, servers, book, cases[0])


def _digests(plan: AuditPlan, servers: Servers, book: Book, case: Case) -> None:
    """Measure the client's digest of a content and the server's digest of the chain."""
    keys = case.saver._operations.keyspace.thread(b"agent")
    (_, named) = servers.redis.xrevrange(keys.log, count=1)[0]
    fields = [part for pair in list(named.items())[2:] for part in pair]
    fed = b"%b\n1700000000000-0\n1000\n%b" % (b"0" * 40, b"0" * 64)
    many = 1000
    for round in range(plan.puts // plan.block):
        with quiet():
            here, _ = timed(lambda: [content_digest(fields) for _ in range(many)])
            nothing, _ = timed(partial(servers.redis.eval, DIGESTS, 0, 0, fed))
            there, _ = timed(partial(servers.redis.eval, DIGESTS, 0, many, fed))
        for _ in range(plan.block):
            book.add(PUT, LINK, Sample(round, 0, (here + there - nothing) / many))


def fill(servers: Servers, prefix: str, events: int, **options: Any) -> None:
    """Fill a thread with checkpoints of a small state, each followed by a write."""
    with RedisStreamSaver.from_conn_string(servers.url, prefix=prefix, **options) as saver:
        config: Any = {"configurable": {"thread_id": THREAD, "checkpoint_ns": ""}}
        version: Any = None
        for n in range(events // 2):
            version = saver.get_next_version(version, None)
            checkpoint = empty_checkpoint()
            checkpoint["id"] = str(uuid6(clock_seq=n))
            checkpoint["channel_values"] = {"turn": n, "status": "working" if n % 3 else "waiting"}
            checkpoint["channel_versions"] = {"turn": version, "status": version}
            metadata: Any = {"source": "loop", "step": n, "parents": {}}
            config = saver.put(config, checkpoint, metadata, {"turn": version, "status": version})
            saver.put_writes(config, [("turn", n + 1)], f"task {n}")


def reading(plan: AuditPlan, servers: Servers, book: Book) -> None:
    """Measure how many events of a whole log are read per second."""
    variants: dict[str, dict[str, Any]] = {"plain": {}, "signed": {"signing_key": SECRET}}
    for prefix, options in variants.items():
        fill(servers, prefix, plan.events, **options)
    with contextlib.ExitStack() as stack:
        plain, keyed = (
            stack.enter_context(RedisStreamSaver.from_conn_string(servers.url, prefix=prefix, **options))
            for prefix, options in variants.items()
        )
        acts = {VERIFY: plain.verify, VERIFY_HMAC: keyed.verify, REBUILD: plain.rebuild, CHECK: plain.check}
        for round in range(-1, plan.rounds):  # the first is not counted
            for name, act in rotated(list(acts.items()), round):
                tidy()
                took, _ = timed(partial(act, THREAD))
                if round >= 0:
                    book.add(READ, name, Sample(round, 0, plan.events / took * 1000))


def memory(plan: AuditPlan, servers: Servers, book: Book) -> None:
    """Measure how much a process grows when it reads a long thread after a short one."""
    for prefix, events in (("short", plan.short), ("long", plan.long)):
        fill(servers, prefix, events)
    for name in KEPT:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            short, long = (pool.submit(peak, servers.url, prefix, name).result() for prefix in ("short", "long"))
        book.add(MEMORY, name, Sample(0, 0, (long - short) / 1024))


def peak(url: str, prefix: str, name: str) -> int:
    """Read a thread, and return the peak memory of this process in KiB."""
    with RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
        if name == "export":
            with tempfile.TemporaryDirectory() as folder:
                saver.export_threads(Path(folder) / "thread.export", [THREAD])
        elif name == "replay":
            deque(saver.replay(THREAD), maxlen=0)
        else:
            getattr(saver, name)(THREAD)
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # On Linux, getrusage of a process includes the memory of the process that started it.
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))


TABLES = (
    Rows(
        "A put of a small state, ms", "ms", [Row(PUT, NONE), *(Row(PUT, name, NONE) for name in (HMAC, ED25519, LINK))]
    ),
    Rows("Reading a whole log, events per second", "events/s", [Row(READ, name) for name in READS]),
    Rows("Growth from the short thread to the long one, MiB", "MiB", [Row(MEMORY, name) for name in KEPT]),
)
BENCH = Bench("audit", (("puts", signing), ("reading", reading), ("memory", memory)), TABLES)


def measure_audit(plan: AuditPlan, servers: Servers, out: Path | None) -> None:
    """Run the benchmark, print tables, and write `audit.json`."""
    measure_rows(BENCH, plan, servers, out)
