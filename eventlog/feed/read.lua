-- Reads a partition's feed after an entry.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading, eventlog/stream_pages, eventlog/feed/filtering.
-- KEYS: 1 feed, 2 trimmed.
-- ARGV: 1 entry id to read after; 2 its fingerprint, '' if that is not known; 3 most pointers; 4 most pointers to look at; then the filters.
-- Reply: {'ok', pointers, id and fingerprint of the last entry looked at, number looked at, 1 if more may follow, else 0};
--   {'trimmed'} or {'lost'} as `standing` of reading.lua has it.

local feed, trimmed = KEYS[1], KEYS[2]
local id, fingerprint, count, scan = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local status = standing(feed, trimmed, id, fingerprint)
if status ~= 'ok' then
  return { status }
end
return { 'ok', read_on(feed, id, fingerprint, count, scan, filters_at(5)) }
