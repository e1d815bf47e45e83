-- Takes a consumer group out of a partition.
--
-- KEYS: 1 positions, 2 state, 3 held, 4 failures, 5 due.
-- ARGV: 1 group.
-- Reply: 1 if it was registered.

redis.call('UNLINK', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
return redis.call('HDEL', KEYS[1], ARGV[1])
