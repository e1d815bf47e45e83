-- Lays a new prefix out, and tells how an old one is laid out and what the server is like.
--
-- KEYS: 1 meta.
-- ARGV: 1 layout version, 2 number of partitions, for a prefix that is new.
-- Reply: layout version, number of partitions, INFO server, INFO memory ('' where the user may not ask).

local known = redis.call('HMGET', KEYS[1], 'layout', 'partitions')
if not known[1] then
  redis.call('HSET', KEYS[1], 'layout', ARGV[1], 'partitions', ARGV[2])
  known = { ARGV[1], ARGV[2] }
end
local function info(section)
  local reply = redis.pcall('INFO', section)
  return type(reply) == 'string' and reply or ''
end
return { known[1], known[2], info('server'), info('memory') }
