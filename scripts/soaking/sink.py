"""A database in which each event of the feed is applied once.

Members may handle an event more often. Effect and position share a transaction. The position of a thread is the
`order` of the last event that was applied, a text that sorts as the feed does. An event whose `order` is not greater
was applied before.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from eventlog import Activity

__all__ = ["Sink", "open_database"]

TABLES = """
CREATE TABLE IF NOT EXISTS positions (thread TEXT PRIMARY KEY, position TEXT NOT NULL, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS applied (thread TEXT NOT NULL, sequence INTEGER NOT NULL, at REAL NOT NULL, member TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS left_out (thread TEXT NOT NULL, sequence INTEGER NOT NULL);
"""
ADVANCE = """
INSERT INTO positions VALUES (?, ?, 1)
ON CONFLICT (thread) DO UPDATE SET position = excluded.position, count = count + 1 WHERE position < excluded.position
"""


def open_database(path: Path) -> sqlite3.Connection:
    """Open the database, which after a kill is as its last commit left it."""
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")  # only processes are killed here, not the machine
    database.executescript(TABLES)
    return database


class Sink:
    """The handler of a member of the group `sink`."""

    def __init__(self, path: Path, member: str) -> None:
        self._database = open_database(path)
        self._member = member

    def apply(self, activity: Activity) -> None:
        """Apply an event, unless it was applied before."""
        database, thread = self._database, activity.thread_id
        with database:
            database.execute("BEGIN IMMEDIATE")
            if database.execute(ADVANCE, (thread, activity.order)).rowcount:
                applied = (thread, activity.sequence, time.monotonic(), self._member)
                database.execute("INSERT INTO applied VALUES (?, ?, ?, ?)", applied)
            else:
                database.execute("INSERT INTO left_out VALUES (?, ?)", (thread, activity.sequence))
