"""The operations of the saver as flows.

An operation checks and translates its arguments, then runs flows of `projections`. It reports every error in its arguments before
it makes its first request.
"""

from __future__ import annotations

from saver.auditing import Auditing
from saver.reading import Reading
from saver.transfer import Transfer
from saver.upkeep import Upkeep
from saver.writing import Writing

__all__ = ["Operations"]


class Operations(Reading, Writing, Upkeep, Transfer, Auditing):
    """All operations of a saver, by capability in the base classes."""
