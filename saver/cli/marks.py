"""Marks the events of a log whose signatures are missing or wrong, as `agentlog verify` finds them."""

from __future__ import annotations

from eventlog.signing import Signer
from projections.integrity.verify import verify_thread
from saver.cli.display import counted
from saver.cli.key_files import signed
from saver.cli.output import complain
from saver.cli.thread_log import RIGHT, ThreadLog
from saver.cli.timeline import Row

__all__ = ["Marks"]


class Marks:
    """The findings about a thread's log, by entry. Nothing is marked without a signer."""

    def __init__(self, log: ThreadLog, signer: Signer | None) -> None:
        self._log = log
        self.last: int | None = None
        """The number of the last event that was verified."""
        self._kinds: dict[bytes, list[str]] = {}
        self._problem = ""
        if signer is not None:
            found = log.run(verify_thread(signed(log.keys.keyspace, signer).thread(log.keys.thread)))
            self.last = found.sequence
            for one in found.findings:
                self._kinds.setdefault(one.entry_id.encode(), []).append(one.kind)
            if found.findings:
                self._problem = f"{counted(len(found.findings), 'finding')}: {found.findings[0].message}"

    def mark(self, row: Row) -> None:
        """Marks an event."""
        if self.last is not None:
            row.signature = ", ".join(dict.fromkeys(self._kinds.get(row.recorded.entry_id, [RIGHT])))

    def report(self) -> int:
        """Reports the first finding, and returns the exit code."""
        if not self._problem:
            return 0
        complain(
            f"the log of thread {self._log.thread!r} is not signed as it should be: {self._problem}. See agentlog verify."
        )
        return 1
