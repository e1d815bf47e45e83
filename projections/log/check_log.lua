-- Tells whether a thread has a log.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua.
-- ARGV: 1 thread.
-- Reply: {'ok'}; {'none'}; {'stale'} or {'lost'}.

local state, why = open()
return { why or (state.first and 'none' or 'ok') }
