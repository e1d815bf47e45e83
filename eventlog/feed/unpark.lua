-- Lets a thread whose event failed go on: with that event once more, or without it.
--
-- Preludes: eventlog/names.
-- KEYS: 1 held, 2 failures, 3 due.
-- ARGV: 1 thread; 2 the event; 3 'retry' or 'skip'; 4 with 'retry': what is to be known of the failure from now on.
-- Reply: 1; 0 if that event is not the one that the thread waits for.

local thread, event = ARGV[1], ARGV[2]
local prefix = ordered(thread)
local function first()
  return redis.call('ZRANGEBYLEX', KEYS[1], '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
end
if first() ~= event then
  return 0
end
if ARGV[3] == 'retry' then
  if ARGV[4] ~= '' then
    redis.call('HSET', KEYS[2], thread, ARGV[4])
  end
  redis.call('ZADD', KEYS[3], 0, thread)
  return 1
end
redis.call('ZREM', KEYS[1], event)
redis.call('HDEL', KEYS[2], thread)
if first() then
  redis.call('ZADD', KEYS[3], 0, thread)
else
  redis.call('ZREM', KEYS[3], thread)
end
return 1
