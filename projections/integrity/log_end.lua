-- Tells where a log ends; writes nothing, whatever it finds amiss.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua.
-- ARGV: 1 thread.
-- Reply: {'ok', its last entry's number and digest as that entry has them, entry id, number of entries, number of the last entry that
--   the index knows or ''}; {'none'} if there is no log; {'lost'} if the thread is known, and its log is gone.

local state, why = open()
local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
if not last then
  return { why or 'none' }
end
local fields = { n = '', d = '' }
for i = 1, #last[2], 2 do
  fields[last[2][i]] = last[2][i + 1]
end
return { 'ok', fields.n, fields.d, last[1], redis.call('XLEN', LOG), redis.call('HGET', INDEX, 'n') or '' }
