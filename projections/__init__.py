"""Folds of a thread's log, and their stored views."""

from projections.checkpoint import PendingWrite, StoredCheckpoint
from projections.feed import FeedProjection
from projections.fold import Index, fold

__all__ = ["FeedProjection", "Index", "PendingWrite", "StoredCheckpoint", "fold"]
