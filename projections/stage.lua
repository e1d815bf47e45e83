-- Lays something ready under a key that drops itself; the same again changes nothing.
--
-- KEYS: 1 staged key.
-- ARGV: 1 seconds after which it is dropped; 2 'HSET', 'ZADD' or 'XADD'; then fields and values, scores and members, or for each
--   stream entry its id, number of fields, and fields.
-- Reply: 1.

local key, command = KEYS[1], ARGV[2]
if command == 'XADD' then
  local at = 3
  while at <= #ARGV do
    local id, size = ARGV[at], tonumber(ARGV[at + 1])
    if not redis.call('XRANGE', key, id, id)[1] then
      redis.call('XADD', key, id, unpack(ARGV, at + 2, at + 1 + size))
    end
    at = at + 2 + size
  end
else
  for first = 3, #ARGV, 1000 do
    redis.call(command, key, unpack(ARGV, first, math.min(first + 999, #ARGV)))
  end
end
redis.call('EXPIRE', key, ARGV[1])
return 1
