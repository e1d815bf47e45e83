"""Refuses modules of an application that hide the lower floors.

`eventlog` and `projections` are common names. A file of that name in the folder that an application starts from comes first
on `sys.path`.
"""

from importlib.util import find_spec
from pathlib import Path

__all__ = ["refuse_other_floors"]

_HOME = Path(__file__).parents[1]


def refuse_other_floors() -> None:
    """Raises ImportError if `eventlog` or `projections` does not lie beside `saver`.

    The error names the file in the way. Neither package is imported for this.
    """
    for name in ("eventlog", "projections"):
        spec = find_spec(name)
        if spec is None or (spec.origin and Path(spec.origin).parent.resolve() == (_HOME / name).resolve()):
            continue
        found = spec.origin or next(iter(spec.submodule_search_locations or ()), "a module without a file")
        raise ImportError(
            f"{name!r} is a package of langgraph-checkpoint-redis-streams, but Python finds {found} first. "
            "Rename it, move it into a package of the application, or start the application from another folder.",
            name=name,
            path=found,
        )
