-- Notes in a partition's registry when a thread expires, or that it does not, as its log says.
--
-- KEYS: 1 log; 2 threads; 3 expiries.
-- ARGV: 1 thread id.
-- Reply: 1.

local log, threads, expiries = KEYS[1], KEYS[2], KEYS[3]
local member, left = 't' .. ARGV[1], redis.call('PTTL', log)
if left == -1 then
  redis.call('ZREM', expiries, member)
elseif left >= 0 and redis.call('ZSCORE', threads, member) and not redis.call('ZSCORE', expiries, member) then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  redis.call('ZADD', expiries, string.format('%.0f', now + left), member)
end
return 1
