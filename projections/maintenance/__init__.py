"""Compares the views with the logs, and rebuilds them."""
