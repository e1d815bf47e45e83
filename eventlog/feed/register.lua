-- Registers a consumer group in a partition: how far it counts as done. A group that is registered already is left as it is.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading.
-- KEYS: 1 feed, 2 trimmed, 3 positions, 4 state.
-- ARGV: 1 group; 2 where it begins: 'beginning' (the first there is), 'end', or an entry id that it is done with; 3 with an id: its check,
--   '' if not known; 4 and the id of an entry that follows it, 5 how many follow it up to that one.
-- Reply: {'ok', 1}, {'ok', 0} if it was registered; {'trimmed'} or {'lost'} as reading.lua has it, nothing written; {'future'} if the id is beyond the server's clock; {'count', id} if more than a page of entries follow the one in ARGV 4, which the caller has to count first.

if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then
  return { 'ok', 0 }
end
local past = redis.call('HMGET', KEYS[2], 'id', 'check', 'n')
local total = tonumber(past[3] or 0) + redis.call('XLEN', KEYS[1])
local id, check, n = past[1] or '0-0', past[2] or '', tonumber(past[3] or 0)
if ARGV[2] == 'end' then
  local entry = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  if entry then
    id, check, n = entry[1], pointer_check(entry[2]), total
  end
elseif ARGV[2] ~= 'beginning' then
  local time = redis.call('TIME')
  if tonumber(string.match(ARGV[2], '^%d+')) > tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + 1000 then
    return { 'future' }
  end
  local what = standing(KEYS[1], KEYS[2], ARGV[2], ARGV[3])
  if what ~= 'ok' then
    return { what }
  end
  local rest = redis.call('XRANGE', KEYS[1], '(' .. ARGV[4], '+', 'COUNT', 1000)
  if #rest == 1000 then
    return { 'count', ARGV[4] }
  end
  id, check, n = ARGV[2], ARGV[3], total - tonumber(ARGV[5]) - #rest
end
redis.call('HSET', KEYS[4], 'id', id, 'check', check, 'n', string.format('%.0f', n))
redis.call('HSET', KEYS[3], ARGV[1], id)
return { 'ok', 1 }
