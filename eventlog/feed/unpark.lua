-- Lets a thread whose event is parked go on: with that event again, or without it.
--
-- Preludes: eventlog/names.
-- KEYS: 1 held (waiting events), 2 failures, 3 due.
-- ARGV: 1 thread; 2 event; 3 'retry' or 'skip'; 4 with 'retry': the new record of the failure, '' to leave it.
-- Reply: 1; 0 if the event is not the first waiting event of the thread.

local held, failures, due = KEYS[1], KEYS[2], KEYS[3]
local thread, event, action, record = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local prefix = ordered(thread)
local function first()
  return redis.call('ZRANGEBYLEX', held, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
end
if first() ~= event then
  return 0
end
if action == 'retry' then
  if record ~= '' then
    redis.call('HSET', failures, thread, record)
  end
  redis.call('ZADD', due, 0, thread)
  return 1
end
redis.call('ZREM', held, event)
redis.call('HDEL', failures, thread)
if first() then
  redis.call('ZADD', due, 0, thread)
else
  redis.call('ZREM', due, thread)
end
return 1
