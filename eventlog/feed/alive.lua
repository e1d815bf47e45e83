-- Lists the live members of a consumer group.
--
-- KEYS: 1 members of the group.
-- ARGV: none.
-- Reply: their names.

local members_key = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
return redis.call('ZRANGEBYSCORE', members_key, '(' .. string.format('%.0f', now), '+inf')
