-- Reads a partition's feed for the member that leases it, and lists the threads that are due.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading, eventlog/stream_pages, eventlog/feed/filtering.
-- KEYS: 1 feed, 2 trimmed, 3 state, 4 due.
-- ARGV: 1 fencing token; 2 entry id to read after, 3 its fingerprint; 4 most pointers, 0 to read no pointers; 5 stamp of the last
--   settlement; 6 most pointers to look at; then the filters.
-- Reply: {'ok', pointers, id and fingerprint of the last entry looked at, number looked at, 1 if more may follow, else 0,
--   threads that are due, ms until the next is due (-1 if there is none)}; {'fenced'} if the lease has another token;
--   {'trimmed'} or {'lost'} as `standing` of reading.lua has it, {'lost'} also if the last settlement has another stamp.
--
-- A member without filters reads the feed by a plain XRANGE after this script, in the same write: a script's reply costs more.

local feed, trimmed, state, due_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local token, id, fingerprint, count, stamp, scan = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
local lease = redis.call('HMGET', state, 'token', 'stamp')
if lease[1] ~= token then
  return { 'fenced' }
end
if (lease[2] or '') ~= stamp then
  return { 'lost' }
end
local status = standing(feed, trimmed, id, fingerprint)
if status ~= 'ok' then
  return { status }
end
local due, left = due_of(due_key)
if count == 0 then
  return { 'ok', {}, '', '', 0, 0, due, left }
end
local found, last_id, last_fingerprint, looked, more = read_on(feed, id, fingerprint, count, scan, filters_at(7))
return { 'ok', found, last_id, last_fingerprint, looked, more, due, left }
