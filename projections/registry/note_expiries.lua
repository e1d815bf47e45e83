-- Takes threads that have ended out of staged views, and notes when others expire.
--
-- Preludes: eventlog/names.
-- KEYS: staged threads, runs, expiries.
-- ARGV: 1 number of threads that have ended; these; then scores and threads.
-- Reply: 1.

local ended = tonumber(ARGV[1])
for i = 2, 1 + ended do
  forget_thread(KEYS[1], KEYS[2], KEYS[3], ARGV[i])
end
for first = 2 + ended, #ARGV, 1000 do
  redis.call('ZADD', KEYS[3], unpack(ARGV, first, math.min(first + 999, #ARGV)))
end
return 1
