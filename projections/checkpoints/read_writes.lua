-- Goes on to read the writes of a checkpoint, of which there are more than one script reads.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua.
-- ARGV: 1 thread; 2 last entry of the log as the first script found it; 3 checkpoint's order member; 4 order member of the last
--   writes that were read.
-- Reply: {'writes', writes} as checkpoint_view.lua describes them, without those that came after the first script;
--   {'moved'} if the checkpoint was removed or saved again since; {'gone', ...} as checkpoint_view.lua says; {'stale'} or {'lost'} as
--   log.lua says.
-- Guarantees: writes nothing. Writes stay in the log as long as their checkpoint is in the order, so all pages are of one state.

local last, checkpoint, after = ARGV[2], ARGV[3], ARGV[4]

local state, why = open()
if not state then
  return { why }
end
if not redis.call('ZSCORE', ORDER, checkpoint) then
  return { 'moved' }
end
local writes, why_not = writes_of(reader(), checkpoint, last, after)
if not writes then
  return why_not
end
return { 'writes', writes }
