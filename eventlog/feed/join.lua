-- Keeps a member of a consumer group alive, or takes it out, and tells who is alive.
--
-- KEYS: 1 members of the group.
-- ARGV: 1 member; 2 ms that it counts as alive, 0 to take it out.
-- Reply: the members alive, by name.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local alive = tonumber(ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now))
if alive > 0 then
  redis.call('ZADD', KEYS[1], string.format('%.0f', now + alive), ARGV[1])
  redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(2 * alive, redis.call('PTTL', KEYS[1]))))
else
  redis.call('ZREM', KEYS[1], ARGV[1])
end
local found = redis.call('ZRANGE', KEYS[1], 0, -1)
table.sort(found)
return found
