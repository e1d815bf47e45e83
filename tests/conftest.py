"""Shared fixtures; each plugin holds one kind."""

from __future__ import annotations

import signal
import threading

from hypothesis import settings

pytest_plugins = ["tests.fix_servers", "tests.fix_markers", "tests.fix_matrix", "tests.fix_postgres"]

# An example that is slow on a busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Keeps children from inheriting an ignored SIGINT (`nohup`, some CI systems): tests send it to them.

    A handler that does nothing leaves this run as deaf as it was, and is reset to the default in whatever is executed.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
