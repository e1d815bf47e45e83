-- Tells whether a thread has a log, and whether its index belongs to the log.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua.
-- ARGV: 1 thread.
-- Reply: {'ok'}; {'none'} if there is no log; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: only reads.

local state, why = open()
return { why or (state.first and 'none' or 'ok') }
