-- Removes a consumer group from a partition.
--
-- KEYS: 1 positions, 2 state, 3 held (waiting events), 4 failures, 5 due.
-- ARGV: 1 group.
-- Reply: 1 if the group was registered, else 0.

local positions, state, held, failures, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local group = ARGV[1]
redis.call('UNLINK', state, held, failures, due)
return redis.call('HDEL', positions, group)
