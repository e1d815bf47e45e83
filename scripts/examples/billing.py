"""A consumer group whose effects happen exactly once: charges in PostgreSQL, with the position in the same transaction.

    billing.py redis://localhost:6379/0 postgresql://localhost/billing worker-1

Needs psycopg: pip install "psycopg[binary]"

Start as many as you like, each under a name of its own. An event may be handed out twice: after a kill, or when a lease was lost.
The sink notices, since it keeps, for each thread, the `order` of the last event it applied, and sets it in the transaction that
applies the next. Per thread and not per partition: an event that was parked comes late, when its partition is far ahead.
"""

from __future__ import annotations

import argparse

try:
    import psycopg
except ImportError:
    raise SystemExit('scripts.examples.billing needs psycopg: pip install "psycopg[binary]"') from None

from eventlog import Activity, ActivityFeed

TABLES = """
CREATE TABLE IF NOT EXISTS charges (thread TEXT, sequence BIGINT, step BIGINT, at TIMESTAMPTZ, PRIMARY KEY (thread, sequence, at));
CREATE TABLE IF NOT EXISTS applied (thread TEXT PRIMARY KEY, place TEXT NOT NULL);
"""
APPLIED = """
INSERT INTO applied VALUES (%s, %s) ON CONFLICT (thread) DO UPDATE SET place = excluded.place WHERE applied.place < excluded.place
"""


def charge(database: psycopg.Connection, activity: Activity) -> None:
    """Charges one step, once."""
    with database.transaction():
        moved = database.execute(APPLIED, (activity.thread_id, activity.order)).rowcount
        if not moved:  # handed out again; the transaction that applied it has committed
            return
        row = (activity.thread_id, activity.sequence, activity.step, activity.time)
        database.execute("INSERT INTO charges VALUES (%s, %s, %s, %s)", row)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for argument in ("redis", "postgres", "worker"):
        parser.add_argument(argument)
    options = parser.parse_args()
    with (
        psycopg.connect(options.postgres, autocommit=True) as database,
        ActivityFeed.from_conn_string(options.redis) as feed,
    ):
        with database.transaction():  # PostgreSQL does not let two workers make the same table at once
            database.execute("SELECT pg_advisory_xact_lock(1)")
            database.execute(TABLES)
        group = feed.group("billing", kinds="checkpoint")
        group.member(options.worker).run(lambda activity: charge(database, activity))


if __name__ == "__main__":
    main()
