"""Reads and folds the log of one thread."""
