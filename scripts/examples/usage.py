"""Count steps and tokens per user, with a projection of the feed into SQLite.

    usage.py redis://localhost:6379/0 usage.db              catch up, and print the table
    usage.py redis://localhost:6379/0 usage.db --follow     continue until Ctrl-C
    usage.py redis://localhost:6379/0 usage.db --rebuild    count again from zero, while the old table still serves

A thread belongs to the `user_id` in its metadata: graph.invoke(..., {"metadata": {"user_id": ...}, ...}). Counts and position
are written in one transaction, so a kill at any moment neither loses nor repeats a count.
"""

from __future__ import annotations

import argparse
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from langgraph.checkpoint.redis_streams import (
    Activity,
    ActivityFeed,
    CheckpointSaved,
    EventGone,
    EventLogError,
    FeedProjection,
    Position,
    RedisStreamSaver,
)

TABLES = """
CREATE TABLE IF NOT EXISTS generations (number INTEGER PRIMARY KEY, position TEXT, serving INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS usage (generation INTEGER, thread TEXT, user TEXT, steps INTEGER NOT NULL, tokens INTEGER NOT NULL,
                                  PRIMARY KEY (generation, thread));
INSERT INTO generations (number, serving) SELECT 1, 1 WHERE NOT EXISTS (SELECT * FROM generations);
"""
ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE
SET user = coalesce(excluded.user, user), steps = steps + excluded.steps, tokens = tokens + excluded.tokens
"""
TABLE = """
SELECT coalesce(user, '(unknown)') AS name, sum(steps), sum(tokens) FROM usage WHERE generation = ? GROUP BY name ORDER BY name
"""

Row = tuple[str, int, int]
"""A user, with steps and tokens."""


class Replaced(Exception):
    """A rebuild has replaced this generation."""


class Usage(FeedProjection):
    """Steps and tokens per user, in one generation of the tables."""

    kinds = ("checkpoint", "writes")

    def __init__(self, database: sqlite3.Connection, saver: RedisStreamSaver, generation: int) -> None:
        self.database = database
        self.saver = saver
        self.generation = generation

    def position(self) -> str | None:
        """Return the position of this generation, None if it is empty."""
        query = "SELECT position FROM generations WHERE number = ?"
        found = self.database.execute(query, (self.generation,)).fetchone()
        if found is None:
            raise Replaced
        return found[0]  # type: ignore[no-any-return]

    def fold(self, activities: Sequence[Activity], position: Position) -> None:
        """Count activities, and move the position, in one transaction."""
        with self.database:
            self.database.execute("BEGIN IMMEDIATE")
            for activity in activities:
                with suppress(EventGone):  # it was deleted since, so nobody is charged for it
                    self._count(activity)
            query = "UPDATE generations SET position = ? WHERE number = ?"
            if not self.database.execute(query, (str(position), self.generation)).rowcount:
                raise Replaced

    def _count(self, activity: Activity) -> None:
        if activity.kind == "checkpoint":
            event = activity.load().event
            assert isinstance(event, CheckpointSaved)
            metadata = event.body["metadata"]
            user = metadata.get("user_id") if isinstance(metadata, dict) else "(encrypted)"
            self._add(activity.thread_id, user=user, steps=int(bool(activity.nodes)))
        elif "messages" in activity.channels:
            # Writes may come before their thread's first checkpoint, which names the user.
            tokens = sum(_tokens(value) for channel, value in self.saver.load_values(activity) if channel == "messages")
            self._add(activity.thread_id, tokens=tokens)

    def _add(self, thread: str, *, user: object = None, steps: int = 0, tokens: int = 0) -> None:
        name = None if user is None else str(user)
        self.database.execute(ADD, (self.generation, thread, name, steps, tokens))


def _tokens(value: Any) -> int:
    """Return the tokens of a message, or of a list of messages."""
    usages = [getattr(one, "usage_metadata", None) for one in (value if isinstance(value, list) else [value])]
    return sum(usage["total_tokens"] for usage in usages if usage)


def connect(path: str | Path) -> sqlite3.Connection:
    """Open the database, and create its tables if they do not exist."""
    database = sqlite3.connect(path, isolation_level=None)
    database.executescript(TABLES)
    return database


def serving(database: sqlite3.Connection) -> int:
    """Return the generation that readers use."""
    (found,) = database.execute("SELECT number FROM generations WHERE serving").fetchone()
    return int(found)


def table(database: sqlite3.Connection) -> list[Row]:
    """Return the rows of the generation that readers use."""
    return database.execute(TABLE, (serving(database),)).fetchall()


def show(database: sqlite3.Connection) -> list[Row]:
    """Print the table, and return its rows."""
    rows = table(database)
    for user, steps, tokens in rows:
        print(f"{user:<30} {steps:>8} steps {tokens:>12} tokens")
    print(flush=True)
    return rows


def rebuild(database: sqlite3.Connection, saver: RedisStreamSaver, feed: ActivityFeed) -> None:
    """Fold a new generation from zero, then let it replace the old one."""
    (newest,) = database.execute("SELECT max(number) FROM generations").fetchone()
    database.execute("INSERT INTO generations (number) VALUES (?)", (newest + 1,))
    Usage(database, saver, newest + 1).catch_up(feed)
    with database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("UPDATE generations SET serving = (number = ?)", (newest + 1,))
        database.execute("DELETE FROM usage WHERE generation <= ?", (newest,))
        database.execute("DELETE FROM generations WHERE number <= ?", (newest,))


def follow(database: sqlite3.Connection, saver: RedisStreamSaver, feed: ActivityFeed) -> None:
    """Fold new events, and print the table after each change or rebuild."""
    rows = show(database)
    while True:
        with suppress(Replaced):
            Usage(database, saver, serving(database)).follow(feed, until=partial(_differs, database, rows))
        if _differs(database, rows):
            rows = show(database)


def _differs(database: sqlite3.Connection, rows: list[Row]) -> bool:
    return table(database) != rows


def main() -> None:
    """Catch up, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="URL of the Redis or Valkey server")
    parser.add_argument("database", help="file of the SQLite database")
    parser.add_argument("--follow", action="store_true", help="continue until Ctrl-C")
    parser.add_argument("--rebuild", action="store_true", help="count again from zero first")
    options = parser.parse_args()
    try:
        with (
            closing(connect(options.database)) as database,
            RedisStreamSaver.from_conn_string(options.url) as saver,
            ActivityFeed.from_conn_string(options.url) as feed,
        ):
            if options.rebuild:
                rebuild(database, saver, feed)
            with suppress(Replaced):  # by a rebuild that has caught up, too
                Usage(database, saver, serving(database)).catch_up(feed)
            if not options.follow:
                show(database)
                return
            with suppress(KeyboardInterrupt):
                follow(database, saver, feed)
    except EventLogError as error:
        raise SystemExit(f"usage.py: {error}") from error


if __name__ == "__main__":
    main()
