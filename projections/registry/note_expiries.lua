-- Removes threads that ended from staged views, and notes when other threads expire.
--
-- Preludes: eventlog/names.
-- KEYS: 1 staged threads; 2 staged runs; 3 expiries; then the threads' logs.
-- ARGV: the threads.
-- Reply: the number of threads that it came to: the caller goes on after these.
-- Guarantees: a thread has not ended if its log is gone and was not to expire: it is lost, and stays known.

local threads, runs, expiries = KEYS[1], KEYS[2], KEYS[3]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local whole = redis.call('ZSCORE', expiries, '')
local removed = 0
for i, thread in ipairs(ARGV) do
  local left = redis.call('PTTL', KEYS[i + 3])
  if left >= 0 then
    redis.call('ZADD', expiries, 'GT', string.format('%.0f', now + left), 't' .. thread)
  elseif left == -2 and not (whole and not redis.call('ZSCORE', expiries, 't' .. thread)) then
    local more, count = forget_runs(runs, thread, 1)
    removed = removed + count
    if more == 1 then
      return i - 1
    end
    redis.call('ZREM', threads, 't' .. thread)
    if removed > 1000 then
      return i
    end
  end
end
return #ARGV
