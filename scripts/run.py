"""Runs a module of this checkout: run.py MODULE [ARGUMENT...].

Unlike `python -m`, it never imports from the current directory, where other users may put modules of the same names.
"""

import runpy
import sys
from pathlib import Path

__all__: list[str] = []

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
