"""The command line `agentlog`: what agents did and do, from the streams that a saver writes."""

from collections.abc import Sequence
from importlib import import_module

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `agentlog` with these arguments, those of the process if None; its exit code."""
    try:
        code: int = import_module("saver.cli.run").run(arguments)
    except KeyboardInterrupt:  # while it loads
        return 130
    return code
