-- Tells where a log ends, and where its index and the stream itself say that it ends.
--
-- KEYS: 1 log, 2 index.
-- ARGV: none.
-- Reply: the index's sequence number and digest, '' without one; id of the last entry, '' for none; the last id that the stream gave,
--   '' without one; number of entries; ms that the log has left, -1 if it does not expire, -2 if there is none.

local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local given = ''
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      given = info[i + 1]
    end
  end
end
local known = redis.call('HMGET', KEYS[2], 'n', 'd')
return { known[1] or '', known[2] or '', last and last[1] or '', given, redis.call('XLEN', KEYS[1]), redis.call('PTTL', KEYS[1]) }
