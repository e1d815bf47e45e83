-- Takes checkpoints out of a thread as planned, unless the log has moved on since the plan was made.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 8... heads of the namespaces concerned.
-- ARGV: 1 thread; 2 digest of the log that the plan was made for; 3 kind; 4 content digest, 5 number of fields, and fields of the event;
--   then five lists, each behind its length: entry ids to delete, index fields to delete, index fields and values to set,
--   order members to remove, scores and order members to add.
-- Reply: {'ok', entry id, digest} of the event; {'moved'} if the log has moved on; {'stale'} or {'lost'}, nothing written.

local state, why = open()
if not state then
  return { why }
end
if state.d ~= ARGV[2] then
  return { 'moved' }
end

local views = shared_views(true, true)
local size = tonumber(ARGV[5])
local fields = { unpack(ARGV, 6, 5 + size) }
local at = 6 + size
local function list()
  local out = {}
  local length = tonumber(ARGV[at])
  for i = 1, length do
    out[i] = ARGV[at + i]
  end
  at = at + 1 + length
  return out
end
local entries, unset, set, gone, added = list(), list(), list(), list(), list()

-- From here on it writes.

announce(state, 1, views, { ARGV[3], '', '', '', '', '' }, true)
append(state, ARGV[4], fields)
in_chunks('XDEL', LOG, entries)
state.c = redis.call('XLEN', LOG)
in_chunks('HDEL', INDEX, unset)
commit(state, set)
in_chunks('ZREM', ORDER, gone)
in_chunks('ZADD', ORDER, added, 2)
for i = 8, #KEYS do
  redis.call('DEL', KEYS[i])
end
keep_alive(0, redis.call('PTTL', LOG), {})
return { 'ok', state.l, state.d }
