"""Marks the events of a log whose signatures are missing or wrong, as `agentlog verify` finds them."""

from __future__ import annotations

from eventlog.signing import Signer
from projections.integrity.verify import verify_thread
from saver.cli.display import counted
from saver.cli.output import complain
from saver.cli.thread_log import RIGHT, ThreadLog
from saver.cli.timeline import Row

__all__ = ["Marks"]


class Marks:
    """The findings about a thread's log, by entry. Nothing is marked without a signer."""

    def __init__(self, log: ThreadLog, signer: Signer | None) -> None:
        self._log = log
        self._signer = signer
        self.last: int | None = None
        """The number of the last event that was verified."""
        self._kinds: dict[bytes, list[str]] = {}
        self._problem = ""
        if signer is not None:
            found = log.run(verify_thread(log.checked_with(signer).keys))
            self.last = found.sequence
            for one in found.of_log:
                self._kinds.setdefault(one.entry_id.encode(), []).append(one.kind)
            if found.of_log:
                self._problem = f"{counted(len(found.of_log), 'finding')}: {found.of_log[0].message}"

    @property
    def log(self) -> ThreadLog:
        """The log to read rows from: with a key and no findings, one that checks each event again as it is read.

        So an event that somebody alters since is refused, and not marked as right.
        """
        return self._log if self._signer is None or self._problem else self._log.checked_with(self._signer)

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
