-- Tells where a log ends, even if it is damaged.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua.
-- ARGV: 1 thread.
-- Reply: {'ok', number and digest of the last entry as that entry has them, its id, number of entries, number of the last entry that
--   the index knows or ''}; {'none'} if there is no log; {'lost'} if the thread is known and its log is gone.
-- Guarantees: only reads.

local _, why = open()
local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
if not last then
  return { why or 'none' }
end
local n, d = field_of(last[2], 'n') or '', field_of(last[2], 'd') or ''
return { 'ok', n, d, last[1], redis.call('XLEN', LOG), redis.call('HGET', INDEX, 'n') or '' }
