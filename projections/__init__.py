"""Folds of a thread's log, and their stored views."""

from projections.checkpoint import PendingWrite, StoredCheckpoint
from projections.fold import Index, fold

__all__ = ["Index", "PendingWrite", "StoredCheckpoint", "fold"]
