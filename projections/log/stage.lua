-- Adds entries to a staged stream.
--
-- KEYS: 1 staged stream.
-- ARGV: 1 seconds after which it expires; then of each entry its id, number of fields and values, and these.
-- Reply: 1.
-- Guarantees: the same call again changes nothing.

local STAGED, seconds = KEYS[1], ARGV[1]
local at = 2
while at <= #ARGV do
  local id, size = ARGV[at], tonumber(ARGV[at + 1])
  if not redis.call('XRANGE', STAGED, id, id)[1] then
    redis.call('XADD', STAGED, id, unpack(ARGV, at + 2, at + 1 + size))
  end
  at = at + 2 + size
end
redis.call('EXPIRE', STAGED, seconds)
return 1
