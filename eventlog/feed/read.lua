-- Reads a partition's feed on from a position.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading.
-- KEYS: 1 feed, 2 trimmed.
-- ARGV: 1 entry id to read after; 2 its check, '' if not known; 3 most pointers; 4 most pointers looked at; then the filters.
-- Reply: {'ok', pointers, id and check of the last looked at, how many were, '1' if more may follow}; {'trimmed'} or {'lost'} as reading.lua has it.

local what = standing(KEYS[1], KEYS[2], ARGV[1], ARGV[2])
if what ~= 'ok' then
  return { what }
end
return { 'ok', read_on(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), filters_at(5)) }
