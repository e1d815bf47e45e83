-- Reads some entries of a log whole.
--
-- Preludes: projections/log/log_ends.
-- KEYS: 1 log.
-- ARGV: entry ids.
-- Reply: the seals of the log's first and last entry, '' for none; the fields of each entry, {} if the log does not have it.
-- Guarantees: only reads.

local LOG = KEYS[1]
local out = {}
for i, entry_id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
  out[i] = entry and entry[2] or {}
end
return { seals_of(LOG), out }
