"""Connections and URLs of users become redis-py clients."""
