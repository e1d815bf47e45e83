-- Registers a consumer group in a partition, at a position. A group that is registered already is left as it is.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading.
-- KEYS: 1 feed, 2 trimmed, 3 positions, 4 state.
-- ARGV: 1 group; 2 start: 'beginning' (the oldest entry kept), 'end', or an entry id to start after; 3 the fingerprint of that entry, '' if
--   it is not known; 4 the id of an entry up to which the caller counted; 5 the number of entries from the start up to that one.
-- Reply: {'ok', 1}; {'ok', 0} if the group was registered; {'count', id} if more than a page of entries follows the entry in ARGV 4, so that
--   the caller has to count on from there.
--   Nothing written: {'trimmed'} or {'lost'} as `standing` of reading.lua has it; {'future'} if the id is ahead of the server's clock.

local feed, trimmed, positions, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local group, start, start_fingerprint, counted_to, counted_entries = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HEXISTS', positions, group) == 1 then
  return { 'ok', 0 }
end
local past = redis.call('HMGET', trimmed, 'id', 'check', 'n')
local id, fingerprint, n = past[1] or '0-0', past[2] or '', tonumber(past[3] or 0)
local total = n + redis.call('XLEN', feed)
if start == 'end' then
  local entry = redis.call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1]
  if entry then
    id, fingerprint, n = entry[1], pointer_check(entry[2]), total
  end
elseif start ~= 'beginning' then
  if tonumber(string.match(start, '^%d+')) > clock() + 1000 then
    return { 'future' }
  end
  local status = standing(feed, trimmed, start, start_fingerprint)
  if status ~= 'ok' then
    return { status }
  end
  local rest = redis.call('XRANGE', feed, '(' .. counted_to, '+', 'COUNT', 1000)
  if #rest == 1000 then
    return { 'count', counted_to }
  end
  id, fingerprint, n = start, start_fingerprint, total - tonumber(counted_entries) - #rest
end
redis.call('HSET', state, 'id', id, 'check', fingerprint, 'n', string.format('%.0f', n))
redis.call('HSET', positions, group, id)
return { 'ok', 1 }
