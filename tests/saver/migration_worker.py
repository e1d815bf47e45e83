"""Another process that migrates, slowly enough to be killed: `python -m tests.saver.migration_worker SQLITE URL PREFIX`."""

from __future__ import annotations

import sys
import time
from contextlib import closing

from langgraph.checkpoint.sqlite import SqliteSaver

from saver import RedisStreamSaver
from saver.migration.migrate import Progress, migrate


def main(path: str, url: str, prefix: str) -> None:
    import sqlite3

    def tell(step: Progress) -> None:
        print(step.checkpoints, flush=True)
        time.sleep(0.02)

    with closing(sqlite3.connect(path)) as connection, RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
        migrate(SqliteSaver(connection), saver, progress=tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
