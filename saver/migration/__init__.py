"""Copies threads from other savers."""
