"""How a channel's value is stored: keyframes, deltas, versions and the cache."""
