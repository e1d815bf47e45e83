"""Which threads, runs and expiries there are."""
