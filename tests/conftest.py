"""Shared fixtures; each plugin holds one kind."""

pytest_plugins = ["tests.fix_servers", "tests.fix_matrix"]
