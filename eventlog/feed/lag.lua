-- Reads how far a consumer group is in a partition.
--
-- KEYS: 1 feed, 2 trimmed, 3 positions, 4 state, 5 held (waiting events), 6 due.
-- ARGV: 1 group.
-- Reply: {'ok', id of the position, entries after it, ms since the first of them was appended (-1 if there is none),
--   waiting events, threads with waiting events, threads whose first event is parked, events handled, events handled
--   a second over the last minute, member that has the lease ('' for no member)};
--   {'none'} if the group is not registered in this partition.

local feed, trimmed, positions, state_key, held, due = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local group = ARGV[1]
if redis.call('HEXISTS', positions, group) == 0 then
  return { 'none' }
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local state = redis.call('HMGET', state_key, 'id', 'n', 'handled', 'rate', 'at', 'member', 'until')
local id, n, handled, rate, at, member, lease_end = unpack(state, 1, 7)
local total = tonumber(redis.call('HGET', trimmed, 'n') or 0) + redis.call('XLEN', feed)
local following = redis.call('XRANGE', feed, '(' .. (id or '0-0'), '+', 'COUNT', 1)[1]
return {
  'ok',
  id or '0-0',
  following and math.max(1, total - tonumber(n or 0)) or 0,
  following and math.max(0, now - tonumber(string.match(following[1], '^%d+'))) or -1,
  redis.call('ZCARD', held),
  redis.call('ZCARD', due),
  redis.call('ZCOUNT', due, 'inf', 'inf'),
  tonumber(handled or 0),
  string.format('%.3f', tonumber(rate or 0) * math.exp(-math.max(0, now - tonumber(at or now)) / 60000)),
  lease_end and tonumber(lease_end) > now and member or '',
}
