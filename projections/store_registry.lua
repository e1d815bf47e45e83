-- Puts views that were rebuilt from a feed in the place of theirs, unless the feed has moved on.
--
-- KEYS: 1 feed, 2 threads, 3 runs, 4 staged threads, 5 staged runs.
-- ARGV: 1 last entry id of the feed that was folded.
-- Reply: 1 if stored; 0 if the feed has moved on: what came after is to be folded too.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] ~= ARGV[1] then
  return 0
end
for i = 2, 3 do
  redis.call('RENAME', KEYS[i + 2], KEYS[i])
  redis.call('PERSIST', KEYS[i])
end
return 1
