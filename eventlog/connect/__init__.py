"""From the connections and URLs that a user has to redis-py clients."""
