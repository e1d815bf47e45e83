-- Tells where a log ends, and where its index and the stream itself say that it ends.
--
-- KEYS: 1 log; 2 index.
-- ARGV: none.
-- Reply: the index's sequence number and digest, '' without an index; id of the last entry, '' for none; the greatest id that the
--   stream has given, '' without a stream; number of entries; ms until the log expires, -1 for never, -2 without a log.
-- Guarantees: only reads.

local LOG, INDEX = KEYS[1], KEYS[2]
local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
local given = ''
if redis.call('EXISTS', LOG) == 1 then
  local info = redis.call('XINFO', 'STREAM', LOG)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      given = info[i + 1]
    end
  end
end
local known = redis.call('HMGET', INDEX, 'n', 'd')
return { known[1] or '', known[2] or '', last and last[1] or '', given, redis.call('XLEN', LOG), redis.call('PTTL', LOG) }
