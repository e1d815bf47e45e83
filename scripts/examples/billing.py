"""Charge each step of every agent exactly once: a consumer group and PostgreSQL.

    billing.py redis://localhost:6379/0 postgresql://localhost/billing worker-1

It needs psycopg: pip install "psycopg[binary]"

Start as many workers as you like, each with its own name. They share the events. After a kill or a lost lease, an event is
delivered again, and must not be charged again. So the transaction that charges an event also saves its `order`, and an event
whose `order` is not greater than the saved one was charged before. The order is saved per thread, not per partition, because a
parked event is retried when its partition is far ahead.

Pointers are not signed. Where others may write to the server, call `activity.load()` before you charge: it checks the pointer.
"""

from __future__ import annotations

import argparse

try:
    import psycopg
except ImportError:
    raise SystemExit('billing.py needs psycopg: pip install "psycopg[binary]"') from None

from langgraph.checkpoint.redis_streams import Activity, ActivityFeed, EventLogError

TABLES = """
CREATE TABLE IF NOT EXISTS charges (thread TEXT, sequence BIGINT, step BIGINT, at TIMESTAMPTZ, PRIMARY KEY (thread, sequence, at));
CREATE TABLE IF NOT EXISTS applied (thread TEXT PRIMARY KEY, last_order TEXT NOT NULL);
"""
ADVANCE = """
INSERT INTO applied VALUES (%s, %s)
ON CONFLICT (thread) DO UPDATE SET last_order = excluded.last_order WHERE applied.last_order < excluded.last_order
"""
CHARGE = "INSERT INTO charges VALUES (%s, %s, %s, %s)"


def charge(database: psycopg.Connection, activity: Activity) -> None:
    """Charge one step, unless it was charged before."""
    with database.transaction():
        if database.execute(ADVANCE, (activity.thread_id, activity.order)).rowcount:
            database.execute(CHARGE, (activity.thread_id, activity.sequence, activity.step, activity.time))


def create_tables(database: psycopg.Connection) -> None:
    """Create the tables, under a lock because workers may start at the same time."""
    with database.transaction():
        database.execute("SELECT pg_advisory_xact_lock(1)")
        database.execute(TABLES)


def main() -> None:
    """Run a worker until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("redis", help="URL of the Redis or Valkey server")
    parser.add_argument("postgres", help="URL of the PostgreSQL database")
    parser.add_argument("worker", help="name of this worker, unlike all others")
    options = parser.parse_args()
    try:
        with (
            psycopg.connect(options.postgres, autocommit=True) as database,
            ActivityFeed.from_conn_string(options.redis) as feed,
        ):
            create_tables(database)
            member = feed.group("billing", kinds="checkpoint").member(options.worker)
            member.run(lambda activity: charge(database, activity))
    except (EventLogError, psycopg.OperationalError) as error:
        raise SystemExit(f"billing.py: {error}") from error


if __name__ == "__main__":
    main()
