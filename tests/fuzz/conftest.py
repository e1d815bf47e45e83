"""Settings of the fuzzers: bounded and the same in every run, or long and random."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

EXAMPLES = os.environ.get("FUZZ_EXAMPLES")
"""The number of examples of a long run."""

settings.register_profile(
    "fuzz",
    max_examples=int(EXAMPLES or 1),
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    # Smaller examples take minutes to find, and nobody waits for them in a usual run.
    phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if os.environ.get("FUZZ_SHRINK", EXAMPLES) else [])],
    suppress_health_check=list(HealthCheck),
)
