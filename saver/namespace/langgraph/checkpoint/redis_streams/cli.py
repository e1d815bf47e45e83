"""The entry point of `agentlog`.

Importing it reports a module that hides a package of this project.
"""

from saver.cli import main

__all__ = ["main"]
