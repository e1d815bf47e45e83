-- Reads some entries of a log whole.
--
-- KEYS: 1 log.
-- ARGV: entry ids.
-- Reply: for each the fields, {} where the log does not have it.

local out = {}
for i, entry_id in ipairs(ARGV) do
  local entry = redis.call('XRANGE', KEYS[1], entry_id, entry_id)[1]
  out[i] = entry and entry[2] or {}
end
return out
