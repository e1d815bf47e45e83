-- Reports the layout of a prefix and the server. Stores the layout of a new prefix, if one is given.
--
-- KEYS: 1 meta.
-- ARGV: 1 layout version, 2 number of partitions, both for a new prefix; none to write nothing.
-- Reply: layout version, number of partitions (false if unknown), INFO server, INFO memory ('' if the user may not ask).

local meta = KEYS[1]
local layout, partitions = ARGV[1], ARGV[2]

local known = redis.call('HMGET', meta, 'layout', 'partitions')
if not known[1] and layout then
  redis.call('HSET', meta, 'layout', layout, 'partitions', partitions)
  known = { layout, partitions }
end
local function info(section)
  local reply = redis.pcall('INFO', section)
  return type(reply) == 'string' and reply or ''
end
return { known[1], known[2], info('server'), info('memory') }
