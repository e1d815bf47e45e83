-- Reads the waiting events of a thread.
--
-- Preludes: eventlog/names.
-- KEYS: 1 held (waiting events), 2 failures, 3 due.
-- ARGV: 1 thread; 2 most events.
-- Reply: the events; the record of the first event's failure, '' if it has not failed; when the first is due, in ms since 1970 ('inf':
--   parked, '': nothing waits); the number of all waiting events of the thread.

local held, failures, due = KEYS[1], KEYS[2], KEYS[3]
local thread, most = ARGV[1], ARGV[2]
local first, last = '[' .. ordered(thread), '(' .. ordered(thread) .. '\255'
return {
  redis.call('ZRANGEBYLEX', held, first, last, 'LIMIT', 0, most),
  redis.call('HGET', failures, thread) or '',
  redis.call('ZSCORE', due, thread) or '',
  redis.call('ZLEXCOUNT', held, first, last),
}
