"""Stores channel values and versions, whole or as changes."""
