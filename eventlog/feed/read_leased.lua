-- Reads a partition's feed on for the member that leases it, if it filters, and tells which threads' failed events are to be tried again. Where
-- it does not filter, the member reads the feed itself right behind this, in the same write: a reply that a script has to make is dear.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading.
-- KEYS: 1 feed, 2 trimmed, 3 state, 4 due.
-- ARGV: 1 token; 2 entry id to read after, 3 its check; 4 most pointers, 0 to read none; 5 stamp of what was written down last; 6 most pointers looked at; then the filters.
-- Reply: {'ok', pointers, id and check of the last looked at, how many were, '1' if more may follow, threads that are due, ms until the
--   next is, -1 for none}; {'fenced'} if the lease is no longer this one; {'trimmed'} or {'lost'} as reading.lua has it.

local held = redis.call('HMGET', KEYS[3], 'token', 'stamp')
if held[1] ~= ARGV[1] then
  return { 'fenced' }
end
if (held[2] or '') ~= ARGV[5] then
  return { 'lost' }
end
local what = standing(KEYS[1], KEYS[2], ARGV[2], ARGV[3])
if what ~= 'ok' then
  return { what }
end
local due, left = due_of(KEYS[4])
if ARGV[4] == '0' then
  return { 'ok', {}, '', '', 0, 0, due, left }
end
local found, id, check, looked, more = read_on(KEYS[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[6]), filters_at(7))
return { 'ok', found, id, check, looked, more, due, left }
