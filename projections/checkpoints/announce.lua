-- Appends a pointer to the feed, and notes the thread's last activity. It runs within a transaction (`transaction.py`).
--
-- KEYS: 1 feed; 2 threads.
-- ARGV: the pointer's fields, names and values in turn, the thread first.
-- Reply: nothing.
-- Guarantees: adds nothing to a view that was deleted: it stays deleted until it is rebuilt from the feed.

local id = redis.call('XADD', KEYS[1], '*', unpack(ARGV))
redis.call('ZADD', KEYS[2], 'XX', string.match(id, '^%d+'), 't' .. ARGV[2])
