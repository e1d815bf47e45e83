-- Stores a head that was rebuilt from the log, unless the log has moved on: a slow reader never overwrites a newer head.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 digest of the log that the head was read from; 3... the head's fields and values, in turn.
-- Reply: {'ok'}; {'moved'} if the log has moved on.
-- Guarantees: writes the head only.

local HEAD, ROOT, digest = KEYS[8], KEYS[9], ARGV[2]

local state = open()
if not state or state.d ~= digest then
  return { 'moved' }
end
local fields = {}
for i = 3, #ARGV do
  fields[i - 2] = ARGV[i]
end
redis.call('UNLINK', HEAD)
in_chunks('HSET', HEAD, fields, 2)
keep_alive(0, redis.call('PTTL', LOG), { HEAD }, HEAD ~= ROOT)
return { 'ok' }
