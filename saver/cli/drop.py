"""`agentlog drop` drops a consumer group."""

from __future__ import annotations

from saver.cli.app import Options, command
from saver.cli.arguments import GroupName, Yes, agreed

__all__ = ["drop"]


@command("agentlog drop audit", "agentlog drop audit --yes")
def drop(options: Options, group: GroupName, *, yes: Yes = False) -> int:
    """Drops a group for good.

    Its position and its waiting and parked events are removed, and the feed is no longer kept for it. Keys that
    effects of its members wrote stay. It asks first.
    """
    with options.open_feed() as feed:
        if not yes:
            found = feed.group(group).lag()
            state = f"{found.pending} events pending, {found.waiting} waiting, {found.parked} threads parked"
            if not agreed(f"Drop group {group!r}, with {state}? Keys written by its effects stay.", yes=yes):
                return 1
        feed.drop_group(group)
    options.report(f"Group {group!r} was dropped.", {"dropped": group})
    return 0
