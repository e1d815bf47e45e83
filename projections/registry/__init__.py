"""Lists which threads, runs and expiries there are."""
