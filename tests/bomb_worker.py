"""Does one thing with hostile data in a process of its own, and prints its end and its greatest memory.

    python -m tests.bomb_worker LIMIT CODE [ARGUMENT...]

CODE is run with the arguments as `args`, in an address space of LIMIT MiB. Printed is a JSON object: `error` (its class) and
`message`, or `result` (the variable, as text), and `mib`, the most memory that was resident, without that of the imports.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

MIB = 1024 * 1024


def resident() -> int:
    """The most MiB that this process had in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // MIB  # bytes on macOS
    return next(int(line.split()[1]) // 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def main(limit: int, code: str, args: list[str]) -> None:
    """Run the code."""
    import saver.saver  # noqa: F401

    before, began = resident(), time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (limit * MIB, limit * MIB))
    found: dict[str, object] = {}
    names: dict[str, object] = {"args": args}
    try:
        exec(code, names)
        found["result"] = str(names.get("result"))
    except Exception as error:
        found.update(error=type(error).__name__, message=str(error))
    print(json.dumps({**found, "mib": resident() - before, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
