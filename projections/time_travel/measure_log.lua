-- How long a log is, and whether entries were taken out of it.
--
-- KEYS: 1 log, 2 index.
-- ARGV: none.
-- Reply: {number of entries, id of the last, its sequence number ('' where there is none), the last that the index knows ('' where there is
--   no index)}.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local sequence
for i = 1, last and #last[2] or 0, 2 do
  if last[2][i] == 'n' then
    sequence = last[2][i + 1]
  end
end
return { redis.call('XLEN', KEYS[1]), last and last[1] or '', sequence or '', redis.call('HGET', KEYS[2], 'n') or '' }
