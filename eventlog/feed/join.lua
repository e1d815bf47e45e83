-- Keeps a member of a consumer group alive, or removes it, and lists the live members.
--
-- KEYS: 1 members of the group.
-- ARGV: 1 member; 2 ms for which it counts as alive, 0 to remove it.
-- Reply: the names of the live members, sorted.

local members_key = KEYS[1]
local member, lasts = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', members_key, '-inf', string.format('%.0f', now))
if lasts > 0 then
  redis.call('ZADD', members_key, string.format('%.0f', now + lasts), member)
  redis.call('PEXPIRE', members_key, string.format('%.0f', math.max(2 * lasts, redis.call('PTTL', members_key))))
else
  redis.call('ZREM', members_key, member)
end
local alive = redis.call('ZRANGE', members_key, 0, -1)
table.sort(alive)
return alive
