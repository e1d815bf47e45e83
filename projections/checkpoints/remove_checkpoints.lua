-- Removes checkpoints from a thread as planned, unless the log has moved on since the plan was made.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/event_arguments.
-- KEYS: those of log.lua; 8... heads of the namespaces concerned.
-- ARGV: 1 thread; 2 digest of the log that the plan was made for; 3 kind of the event; 4... the event, as event_arguments.lua says;
--   then five lists, each after its length: entry ids to delete, index fields to delete, index fields and values to set,
--   order members to remove, scores and order members to add.
-- Reply: {'ok', entry id, digest} of the event; {'moved'} if the log has moved on; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: writes all of it, or, with any other reply than 'ok', nothing.

local planned_for, kind = ARGV[2], ARGV[3]
local events, at = events_at(4, 1)

local function next_list()
  local out, length = {}, tonumber(ARGV[at])
  for i = 1, length do
    out[i] = ARGV[at + i]
  end
  at = at + 1 + length
  return out
end
local entry_ids, unset, set, removed, added = next_list(), next_list(), next_list(), next_list(), next_list()

local state, why = open()
if not state then
  return { why }
end
if state.d ~= planned_for then
  return { 'moved' }
end
local views = shared_views(true, true)

-- From here on it writes.

announce(state, 1, views, { kind, '', '', '', '', '' }, true)
append(state, events[1].content, events[1].fields)
in_chunks('XDEL', LOG, entry_ids)
state.c = redis.call('XLEN', LOG)
in_chunks('HDEL', INDEX, unset)
commit(state, set)
in_chunks('ZREM', ORDER, removed)
in_chunks('ZADD', ORDER, added, 2)
for i = 8, #KEYS do
  redis.call('UNLINK', KEYS[i])
end
keep_alive(0, redis.call('PTTL', LOG), {})
return { 'ok', state.l, state.d }
