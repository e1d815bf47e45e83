"""Checks the views against the log, and rebuilds them."""
