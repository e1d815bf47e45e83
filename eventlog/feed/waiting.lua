-- Tells what waits of a thread.
--
-- Preludes: eventlog/names.
-- KEYS: 1 held, 2 failures, 3 due.
-- ARGV: 1 thread; 2 most events.
-- Reply: the events, what is known of the failure of the first ('' if it has not failed), when it is due, how many wait in all.

local prefix = ordered(ARGV[1])
local found = redis.call('ZRANGEBYLEX', KEYS[1], '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, ARGV[2])
local failure, due = redis.call('HGET', KEYS[2], ARGV[1]), redis.call('ZSCORE', KEYS[3], ARGV[1])
return { found, failure or '', due or '', redis.call('ZLEXCOUNT', KEYS[1], '[' .. prefix, '(' .. prefix .. '\255') }
