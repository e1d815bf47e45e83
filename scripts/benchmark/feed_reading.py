"""A member that only reads, compared with redis-py's bare XREADGROUP and XACK."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from eventlog import ActivityFeed, Keyspace
from saver import RedisStreamSaver
from scripts.benchmark.book import Book, Sample
from scripts.benchmark.clock import now, quiet, tidy
from scripts.benchmark.feed_child import read_bare
from scripts.benchmark.plan import FeedPlan, rotated
from scripts.benchmark.servers import Servers
from scripts.benchmark.traffic import Replay, counter

__all__ = ["READINGS", "reading"]

MEMBER, BARE = "member", "bare XREADGROUP, XACK"
FIGURES = {partitions: f"{partitions} partition{'s' if partitions > 1 else ''}" for partitions in (16, 1)}
READINGS = [row for figure in FIGURES.values() for row in ((figure, MEMBER, BARE), (figure, BARE, None))]
"""Figure, variant, and the variant that it is compared with."""
THREADS = 50


def reading(plan: FeedPlan, servers: Servers, book: Book) -> None:
    """Measure readers that begin at the first pointer, each in a new group."""
    spaces = {partitions: _fill(plan, servers, partitions) for partitions in FIGURES}
    readers: list[tuple[int, str, Callable[[FeedPlan, Servers, Keyspace, int], float]]] = [
        (partitions, name, read) for partitions in FIGURES for name, read in ((MEMBER, _by_member), (BARE, _bare))
    ]
    for round in range(-1, plan.rounds):  # the first is not counted
        for partitions, name, read in rotated(readers, round):
            tidy()
            with quiet():
                rate = read(plan, servers, spaces[partitions], round)
            if round >= 0:
                book.add(FIGURES[partitions], name, Sample(round, 0, rate))


def _fill(plan: FeedPlan, servers: Servers, partitions: int) -> Keyspace:
    """Fill the feeds with copies of the pointer of a put."""
    prefix = f"reading-{partitions}"
    keyspace = Keyspace(prefix, partitions)
    with RedisStreamSaver.from_conn_string(servers.url, prefix=prefix, partitions=partitions) as saver:
        replay = Replay(saver, counter(3), "template")
        for n in range(3):
            saver.put(*replay.put(n))
    home = keyspace.partition(keyspace.partition_of(b"template")).feed
    (_, template) = servers.redis.xrevrange(home, count=1)[0]
    servers.redis.delete(home)
    dice, ids = random.Random(plan.seed), itertools.count(1_800_000_000_000)
    with servers.redis.pipeline(transaction=False) as pipeline:
        for n in range(plan.pointers):
            thread = b"agent-%03d" % dice.randrange(THREADS)
            entry_id = b"%d-0" % next(ids)
            fields = {**template, b"thread": thread, b"id": entry_id, b"seq": b"%d" % n}
            pipeline.xadd(keyspace.partition(keyspace.partition_of(thread)).feed, fields, id=entry_id)
            if n % 1000 == 999:
                pipeline.execute()
        pipeline.execute()
    return keyspace


def _by_member(plan: FeedPlan, servers: Servers, keyspace: Keyspace, round: int) -> float:
    with ActivityFeed.from_conn_string(servers.url, prefix=keyspace.prefix) as feed:
        group = feed.group(f"member-{round}")
        with group.member("bench", batch=plan.batch) as member:
            began = now()
            for seen, _ in enumerate(member, 1):
                if seen == plan.pointers:
                    break
            member.acknowledge()
            took = now() - began
        lag = group.lag()
        if lag.pending or lag.handled != plan.pointers:
            raise AssertionError(f"{lag.pending} pending, {lag.handled} handled")
        feed.drop_group(group.name)
    return float(plan.pointers / (took / 1e9))


def _bare(plan: FeedPlan, servers: Servers, keyspace: Keyspace, round: int) -> float:
    client, group = servers.redis, f"bare-{round}"
    feeds = {keyspace.partition(number).feed: b">" for number in range(keyspace.partitions)}
    feeds = {key: after for key, after in feeds.items() if client.exists(key)}
    for key in feeds:
        client.xgroup_create(key, group, "0")
    began, seen = now(), 0
    while seen < plan.pointers:
        for key, entries in read_bare(client, group, feeds, count=plan.batch):
            for _ in entries:
                seen += 1
            client.xack(key, group, *(entry_id for entry_id, _ in entries))
    took = now() - began
    for key in feeds:
        client.xgroup_destroy(key, group)
    return float(plan.pointers / (took / 1e9))
