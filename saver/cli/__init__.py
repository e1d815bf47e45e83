"""The command line `agentlog`: the history of agents, for people and programs."""

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `agentlog` with arguments (None: of the process), and return its exit code."""
    try:
        from saver.cli.run import run  # noqa: PLC0415 - Ctrl-C ends it quietly while modules load, too

        return run(arguments)
    except KeyboardInterrupt:
        return 130
