"""Another process that migrates, slowly enough to be killed: `python -m tests.saver.migration_worker SOURCE URL PREFIX`."""

from __future__ import annotations

import sys
import time

from saver import RedisStreamSaver
from saver.migration.migrate import Progress, migrate
from saver.migration.opening import open_source


def main(source: str, url: str, prefix: str) -> None:
    def tell(step: Progress) -> None:
        print(step.checkpoints, flush=True)
        time.sleep(0.02)

    with open_source(source) as opened, RedisStreamSaver.from_conn_string(url, prefix=prefix) as saver:
        migrate(opened, saver, progress=tell)


if __name__ == "__main__":
    main(*sys.argv[1:])
