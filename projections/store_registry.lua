-- Puts views that were rebuilt from a feed in the place of theirs, unless the feed has moved on.
--
-- KEYS: 1 feed; 2 threads, 3 runs, 4 expiries; 5, 6, 7 the same, staged.
-- ARGV: 1 last entry id of the feed that was folded.
-- Reply: 1 if stored; 0 if the feed has moved on: what came after is to be folded too.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if last and last[1] ~= ARGV[1] then
  redis.call('UNLINK', KEYS[5], KEYS[6], KEYS[7])
  return 0
end
for i = 2, 4 do
  redis.call('RENAME', KEYS[i + 3], KEYS[i])
  redis.call('PERSIST', KEYS[i])
end
return 1
