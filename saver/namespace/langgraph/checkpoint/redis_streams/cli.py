"""The entry point of `agentlog`, which reports a module that hides a package of this project."""

from saver.cli import main

__all__ = ["main"]
