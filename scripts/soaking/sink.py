"""A database of one's own in which each event of the feed has its effect once, though it may be handled more often.

Effect and position are one transaction. The position is, per thread, the `order` of the last event that had its effect: text that
sorts as the feed does. What is not greater has had its effect already.
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
APPLY = """
INSERT INTO positions VALUES (?, ?, 1)
ON CONFLICT (thread) DO UPDATE SET position = excluded.position, count = count + 1
"""


def open_database(path: Path) -> sqlite3.Connection:
    """The database, with its tables. A process that is killed leaves it as after its last commit."""
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = OFF")  # the machine is not killed here, only processes are
    database.executescript(TABLES)
    return database


class Sink:
    """What a member does with each event."""

    def __init__(self, path: Path, member: str) -> None:
        self._database = open_database(path)
        self._member = member

    def apply(self, activity: Activity) -> None:
        """The effect of an event, if it has not had it yet."""
        database, thread = self._database, activity.thread_id
        database.execute("BEGIN IMMEDIATE")
        try:
            row = database.execute("SELECT position FROM positions WHERE thread = ?", (thread,)).fetchone()
            if row is None or activity.order > row[0]:
                database.execute(APPLY, (thread, activity.order))
                applied = (thread, activity.sequence, time.monotonic(), self._member)
                database.execute("INSERT INTO applied VALUES (?, ?, ?, ?)", applied)
            else:
                database.execute("INSERT INTO left_out VALUES (?, ?)", (thread, activity.sequence))
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
