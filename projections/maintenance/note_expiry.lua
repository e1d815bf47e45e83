-- Notes when a thread of a partition's registry expires, or that it does not, by what its log says.
--
-- KEYS: 1 log; 2 threads; 3 expiries.
-- ARGV: 1 thread.
-- Reply: 1.

local name, left = 't' .. ARGV[1], redis.call('PTTL', KEYS[1])
if left == -1 then
  redis.call('ZREM', KEYS[3], name)
elseif left >= 0 and redis.call('ZSCORE', KEYS[2], name) and not redis.call('ZSCORE', KEYS[3], name) then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  redis.call('ZADD', KEYS[3], string.format('%.0f', now + left), name)
end
return 1
