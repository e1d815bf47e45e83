-- Reads the digest of an entry.
--
-- KEYS: 1 log.
-- ARGV: 1 entry id.
-- Reply: {digest}; {} if the log does not have the entry.
-- Guarantees: only reads.

local LOG, entry_id = KEYS[1], ARGV[1]
local entry = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
for i = 1, entry and #entry[2] or 0, 2 do
  if entry[2][i] == 'd' then
    return { entry[2][i + 1] }
  end
end
return {}
