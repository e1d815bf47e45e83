"""A member in a process of its own: `member_worker URL PREFIX GROUP LEASE SECONDS`; prints the thread and number of each event."""

from __future__ import annotations

import sys
import time

from eventlog import Activity, ActivityFeed


def main(url: str, prefix: str, group: str, lease: str, seconds: str) -> None:
    """Handles events, each in so many seconds, until a signal ends it."""

    def handle(activity: Activity) -> None:
        print("begin", activity.thread_id, activity.sequence, flush=True)
        time.sleep(float(seconds))
        print("end", activity.thread_id, activity.sequence, flush=True)

    with ActivityFeed.from_conn_string(url, prefix=prefix) as feed:
        feed.group(group).member("process", lease=float(lease)).run(handle)
    print("left", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
