-- Tells which members of a consumer group are alive.
--
-- KEYS: 1 members of the group.
-- ARGV: none.
-- Reply: their names.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. string.format('%.0f', now), '+inf')
