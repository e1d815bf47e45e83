"""Put, get, list, prune and delete: the calls that LangGraph makes."""
