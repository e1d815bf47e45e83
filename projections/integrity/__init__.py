"""Tells whether a log was altered."""
