"""The plugins with shared fixtures, one for each kind."""

from __future__ import annotations

import signal
import threading

from hypothesis import settings

pytest_plugins = ["tests.fix_servers", "tests.fix_markers", "tests.fix_matrix", "tests.fix_postgres"]

# An example may be slow on a busy machine.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_configure() -> None:
    """Keep child processes from inheriting an ignored SIGINT, which tests send.

    `nohup` and some CI systems ignore SIGINT. A handler that does nothing still ignores it in this process, and the default
    returns in every program that is executed.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)
