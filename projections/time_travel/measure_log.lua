-- Measures a log, which shows whether entries were taken out of it.
--
-- KEYS: 1 log, 2 index.
-- ARGV: none.
-- Reply: {number of entries, id of the last entry, sequence number of the last entry, sequence number that the index has for it},
--   '' for each that does not exist.
-- Guarantees: writes nothing.

local log, index = KEYS[1], KEYS[2]
local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
local sequence
for i = 1, last and #last[2] or 0, 2 do
  if last[2][i] == 'n' then
    sequence = last[2][i + 1]
  end
end
return { redis.call('XLEN', log), last and last[1] or '', sequence or '', redis.call('HGET', index, 'n') or '' }
