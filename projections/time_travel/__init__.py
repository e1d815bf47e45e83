"""The state of a thread as of any moment, and replays."""
