"""Follows the feed of all threads, live or from a position, alone or in a group."""
