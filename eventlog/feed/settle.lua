-- Writes down what a member has done: how far it is in the partition, what waits, what was tried again, what failed, and effects.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading.
-- KEYS: 1 positions, 2 state, 3 held, 4 failures, 5 due, 6 feed, 7 trimmed; then the keys that effects are on.
-- ARGV: 1 group; 2 token; 3 stamp of what was written down before, 4 stamp of this; 5 id, 6 check and 7 number of the position, 5 is '' to
--   leave it; 8 how many events were handled; then four lists, each behind its length:
--   threads and events that are to wait; threads and events that were tried again, and are done;
--   threads, events, ms until they are due ('inf': parked) and records of failures; effects: each one's number of words, command, number of its key, arguments.
-- With effects there is one event. A call that is sent again is known by its stamp, and changes nothing. A stamp of before that is not the
-- state's shows that the server lost what was written down since, as in a failover: 'lost'.
-- Reply: {'ok', threads of the second list that nothing waits of any more, threads that are due, ms until the next is, -1 for none}; nothing written: {'fenced'} if the lease is no longer this one; {'trimmed'} or {'lost'} as reading.lua
--   has it; {'refused',
--   number of the effect, error} if an effect cannot be carried out; {'halfway', number of the effect, error} if one failed after others
--   were carried out, and nothing else written.

local group, id, handled = ARGV[1], ARGV[5], tonumber(ARGV[8])
local state = redis.call('HMGET', KEYS[2], 'token', 'stamp')
if state[1] ~= ARGV[2] then
  return { 'fenced' }
end
local same = state[2] == ARGV[4]
if not same and (state[2] or '') ~= ARGV[3] then
  return { 'lost' }
end
if id ~= '' and not same then
  local what = standing(KEYS[6], KEYS[7], id, ARGV[6])
  if what ~= 'ok' then
    return { what }
  end
end
local at = 9
local function list(step)
  local out, length = {}, tonumber(ARGV[at]) * step
  for i = 1, length do
    out[i] = ARGV[at + i]
  end
  at = at + 1 + length
  return out
end
local waits, again, failed = list(2), list(2), list(4)

local effects = {}
for i = 1, tonumber(ARGV[at]) do
  local size = tonumber(ARGV[at + 1])
  effects[i] = { unpack(ARGV, at + 2, at + 1 + size) }
  at = at + size + 1
end
local KINDS = {
  hash = { HSET = 1, HSETNX = 1, HDEL = 1, HINCRBY = 1, HINCRBYFLOAT = 1 },
  string = { SET = 1, INCRBY = 1, DECRBY = 1, INCRBYFLOAT = 1, APPEND = 1 },
  zset = { ZADD = 1, ZINCRBY = 1, ZREM = 1 },
  set = { SADD = 1, SREM = 1 },
  list = { RPUSH = 1, LPUSH = 1, LTRIM = 1 },
  stream = { XADD = 1 },
}
local function follows(thread)
  local prefix = ordered(thread)
  return redis.call('ZRANGEBYLEX', KEYS[3], '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
end

local free = {}
if same then
  for i = 1, #again, 2 do
    if not follows(again[i]) then
      free[#free + 1] = again[i]
    end
  end
  return { 'ok', free, due_of(KEYS[5]) }
end
local before = redis.call('HGET', KEYS[2], 'halfway')
if before and string.sub(before, 1, #ARGV[4] + 1) == ARGV[4] .. ' ' then -- sent again
  local number, error = string.match(before, '^%S+ (%d+) (.*)$')
  return { 'halfway', tonumber(number), error }
end
for i, effect in ipairs(effects) do
  local kind = redis.call('TYPE', KEYS[7 + tonumber(effect[2])]).ok
  local command = string.upper(effect[1])
  if command ~= 'PEXPIRE' and command ~= 'DEL' and kind ~= 'none' and not (KINDS[kind] and KINDS[kind][command]) and command ~= 'SET' then
    return { 'refused', i, command .. ' on a key that holds a ' .. kind }
  end
end
if #effects > 0 then -- where the server takes no writes, that shows here, as what it is
  redis.call('HSET', KEYS[2], 'stamp', ARGV[3])
elseif #waits == 0 and #failed == 0 then -- what follows needs no room, and a full server is to take it: a first write that it takes
  redis.call('HDEL', KEYS[2], '')
end
for i, effect in ipairs(effects) do
  local reply = redis.pcall(effect[1], KEYS[7 + tonumber(effect[2])], unpack(effect, 3))
  if type(reply) == 'table' and reply.err then
    if i > 1 then
      redis.call('HSET', KEYS[2], 'halfway', ARGV[4] .. ' ' .. i .. ' ' .. reply.err)
    end
    return { i == 1 and 'refused' or 'halfway', i, reply.err }
  end
end

for i = 1, #waits, 2 do
  redis.call('ZADD', KEYS[3], 0, waits[i + 1])
  redis.call('ZADD', KEYS[5], 'NX', 0, waits[i])
end
for i = 1, #again, 2 do
  local thread = again[i]
  redis.call('ZREM', KEYS[3], again[i + 1])
  redis.call('HDEL', KEYS[4], thread)
  if follows(thread) then
    redis.call('ZADD', KEYS[5], 0, thread)
  else
    redis.call('ZREM', KEYS[5], thread)
    free[#free + 1] = thread
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for i = 1, #failed, 4 do
  local due = failed[i + 2] == 'inf' and 'inf' or string.format('%.0f', now + tonumber(failed[i + 2]))
  redis.call('ZADD', KEYS[3], 0, failed[i + 1])
  redis.call('ZADD', KEYS[5], due, failed[i])
  redis.call('HSET', KEYS[4], failed[i], failed[i + 3])
end
redis.call('HSET', KEYS[2], 'stamp', ARGV[4])
if id ~= '' then
  redis.call('HSET', KEYS[2], 'id', id, 'check', ARGV[6], 'n', ARGV[7])
  redis.call('HSET', KEYS[1], group, id)
end
if handled > 0 then
  local was = redis.call('HMGET', KEYS[2], 'rate', 'at')
  local passed = math.max(0, now - tonumber(was[2] or now)) / 1000
  local rate = tonumber(was[1] or 0) * math.exp(-passed / 60) + handled / 60
  redis.call('HINCRBY', KEYS[2], 'handled', handled)
  redis.call('HSET', KEYS[2], 'rate', string.format('%.6f', rate), 'at', string.format('%.0f', now))
end
return { 'ok', free, due_of(KEYS[5]) }
