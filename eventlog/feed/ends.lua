-- Tells where a partition's feed ends.
--
-- KEYS: 1 feed, 2 trimmed.
-- ARGV: none.
-- Reply: id and check of the last entry, '0-0' and '' if there never was one; how many there were, those trimmed included.

local past = redis.call('HMGET', KEYS[2], 'id', 'check', 'n')
local entry = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local total = tonumber(past[3] or 0) + redis.call('XLEN', KEYS[1])
if entry then
  return { entry[1], pointer_check(entry[2]), total }
end
return { past[1] or '0-0', past[2] or '', total }
