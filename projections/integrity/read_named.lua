-- Reads some entries of a log whole.
--
-- Preludes: projections/log/log_ends.
-- KEYS: 1 log.
-- ARGV: 1 anything but '' to ask for seals; then entry ids.
-- Reply: the seals of the log's first and last entry, '' for none, if they are asked for; the fields of each entry, {} if the log
--   does not have it.
-- Guarantees: only reads.

local LOG = KEYS[1]
local out = {}
for i = 2, #ARGV do
  local entry = redis.call('XRANGE', LOG, ARGV[i], ARGV[i])[1]
  out[i - 1] = entry and entry[2] or {}
end
return { ARGV[1] ~= '' and seals_of(LOG), out }
