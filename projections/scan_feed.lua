-- Reads a stretch of a partition's feed, as much of it as the partition's views are made of.
--
-- KEYS: 1 feed.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most pointers.
-- Reply: {{entry id, thread, kind, run}, ...}

local out = {}
for i, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1] == '' and '-' or '(' .. ARGV[1], '+', 'COUNT', ARGV[2])) do
  local fields = {}
  for at = 1, #entry[2], 2 do
    fields[entry[2][at]] = entry[2][at + 1]
  end
  out[i] = { entry[1], fields.thread or '', fields.kind or '', fields.run or '' }
end
return out
