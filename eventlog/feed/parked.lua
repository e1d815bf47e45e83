-- Tells which threads have a parked event.
--
-- KEYS: 1 due.
-- ARGV: none.
-- Reply: the threads.

return redis.call('ZRANGEBYSCORE', KEYS[1], 'inf', 'inf')
