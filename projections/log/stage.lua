-- Adds entries to a stream that is being laid ready under a key that drops itself; the same again changes nothing.
--
-- KEYS: 1 staged stream.
-- ARGV: 1 seconds after which it is dropped; then of each entry its id, number of fields, and fields.
-- Reply: 1.

local key, at = KEYS[1], 2
while at <= #ARGV do
  local id, size = ARGV[at], tonumber(ARGV[at + 1])
  if not redis.call('XRANGE', key, id, id)[1] then
    redis.call('XADD', key, id, unpack(ARGV, at + 2, at + 1 + size))
  end
  at = at + 2 + size
end
redis.call('EXPIRE', key, ARGV[1])
return 1
