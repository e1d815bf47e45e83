-- Notes more runs that wrote to a thread which was imported or copied, and names them in the feed.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua.
-- ARGV: 1 thread id; 2 kind of the pointer; 3 entry id and 4 digest of an entry that the import or the copy put there; then the runs.
-- Reply: {'ok'}; {'moved'} if the thread does not have that entry any more; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: writes all of it, or, with any other reply than 'ok', nothing. The same call again adds a pointer and changes nothing else.

local kind, entry_id, digest = ARGV[2], ARGV[3], ARGV[4]
local state, why = open()
if not state then
  return { why }
end
local fields = fields_at(entry_id)
if not fields or field_of(fields, 'd') ~= digest then
  return { 'moved' }
end
local views = shared_views(true, false)
local parts = {}
for i = 5, #ARGV do
  parts[i - 4] = counted(ARGV[i])
end

-- From here on it writes.

announce(state, 0, views, { kind, '', '', '', '', '', '', '', table.concat(parts) }, true)
if views.runs then
  for i = 5, #ARGV do
    remember_run(RUNS, THREAD, ARGV[i])
  end
end
return { 'ok' }
