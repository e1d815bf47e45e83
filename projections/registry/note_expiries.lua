-- Removes threads that ended from staged views, and notes when other threads expire.
--
-- Preludes: eventlog/names.
-- KEYS: 1 staged threads; 2 staged runs; 3 staged expiries.
-- ARGV: 1 number of threads that ended; then these threads; then scores and members of expiries in turn.
-- Reply: 1.

local threads, runs, expiries = KEYS[1], KEYS[2], KEYS[3]
local ended = tonumber(ARGV[1])
for i = 2, 1 + ended do
  forget_thread(threads, runs, expiries, ARGV[i])
end
for first = 2 + ended, #ARGV, 1000 do
  redis.call('ZADD', expiries, unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
return 1
