"""Run the Python blocks of one document, top to bottom, in one namespace.

This process reads a JSON object a line (`code`, `name`, `line`, `endless`, `environment`) and answers with one (`out`, `error`).
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from types import FrameType
from typing import Any

SECONDS = 2.5
"""Seconds for which a block runs that only a signal ends."""


class Stopped(BaseException):
    """The block has run for long enough."""


def main() -> None:
    """Answer requests until standard input ends."""
    replies = sys.stdout
    loop = asyncio.new_event_loop()
    names: dict[str, Any] = {"__name__": "document"}
    signal.signal(signal.SIGALRM, _stop)
    for line in sys.stdin:
        request = json.loads(line)
        os.environ.update(request["environment"])
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            error = _attempt(request, names, loop)
        replies.write(json.dumps({"out": out.getvalue(), "error": error}) + "\n")
        replies.flush()


def _attempt(request: dict[str, Any], names: dict[str, Any], loop: asyncio.AbstractEventLoop) -> str:
    """Run a block, and return the traceback if it fails."""
    try:
        code = compile(
            "\n" * (request["line"] - 1) + request["code"],
            request["name"],
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        if request["endless"]:
            _run_for_a_while(request["url"])
        _run(code, names, loop)
    except Stopped:
        _cancel_all(loop)
    except BaseException:  # also SystemExit: the parent reports it
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def _run(code: Any, names: dict[str, Any], loop: asyncio.AbstractEventLoop) -> None:
    if code.co_flags & inspect.CO_COROUTINE:
        loop.run_until_complete(eval(code, names))
    else:
        exec(code, names)


def _run_for_a_while(url: str) -> None:
    """Arrange for some events on the server, and for the end of the block."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, SECONDS, SECONDS)
    threading.Thread(target=_stir, args=(url,), daemon=True).start()


def _stir(url: str) -> None:
    """Save two checkpoints on a thread that documents do not use."""
    from langgraph.checkpoint.base import empty_checkpoint

    from saver import RedisStreamSaver

    with RedisStreamSaver.from_conn_string(url) as saver:
        for step in range(2):
            time.sleep(SECONDS / 3)
            config: Any = {"configurable": {"thread_id": "stirred", "checkpoint_ns": ""}}
            saver.put(config, empty_checkpoint(), {"source": "loop", "step": step, "parents": {}}, {})


def _stop(_: int, __: FrameType | None) -> None:
    """End a member of a consumer group by SIGTERM, and other blocks by an exception."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        raise Stopped
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:  # a block that was stopped in sync code has none
        loop.run_until_complete(asyncio.wait(tasks))


if __name__ == "__main__":
    main()
