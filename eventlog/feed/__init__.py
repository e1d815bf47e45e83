"""Following what is announced in the feed: all threads, live or from a position, alone or in a group."""
