-- Tells how far a consumer group is in a partition.
--
-- KEYS: 1 feed, 2 trimmed, 3 positions, 4 state, 5 held, 6 due.
-- ARGV: 1 group.
-- Reply: {'ok', id of the position, entries after it, ms since the first of them came (-1 for none), events that wait, threads that wait, threads
--   whose first event is parked, events handled, events a second over the last minute, member ('' for none)};
--   {'none'} if the group is not registered here.

if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
  return { 'none' }
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local state = redis.call('HMGET', KEYS[4], 'id', 'n', 'handled', 'rate', 'at', 'member', 'until')
local total = tonumber(redis.call('HGET', KEYS[2], 'n') or 0) + redis.call('XLEN', KEYS[1])
local following = redis.call('XRANGE', KEYS[1], '(' .. (state[1] or '0-0'), '+', 'COUNT', 1)[1]
local age = following and math.max(0, now - tonumber(string.match(following[1], '^%d+'))) or -1
local rate = tonumber(state[4] or 0) * math.exp(-math.max(0, now - tonumber(state[5] or now)) / 60000)
local left = state[7] and tonumber(state[7]) - now or 0
return {
  'ok',
  state[1] or '0-0',
  following and math.max(1, total - tonumber(state[2] or 0)) or 0,
  age,
  redis.call('ZCARD', KEYS[5]),
  redis.call('ZCARD', KEYS[6]),
  redis.call('ZCOUNT', KEYS[6], 'inf', 'inf'),
  tonumber(state[3] or 0),
  string.format('%.3f', rate),
  left > 0 and state[6] or '',
}
