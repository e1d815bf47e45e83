"""Folds of a thread's log, and the views that they are stored in."""

from projections.feed import FeedProjection
from projections.log.fold import Index, fold
from projections.values.stored import PendingWrite, StoredCheckpoint

__all__ = ["FeedProjection", "Index", "PendingWrite", "StoredCheckpoint", "fold"]
