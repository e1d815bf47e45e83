-- Settles the progress of a member in a partition: its position, waiting events, failures, and effects.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading.
-- KEYS: 1 positions, 2 state, 3 held (waiting events), 4 failures, 5 due, 6 feed, 7 trimmed; then the keys of effects.
-- ARGV: 1 group; 2 fencing token; 3 stamp of the last settlement, 4 stamp of this one; 5 id, 6 fingerprint and 7 number of the position, 5 is
--   '' to leave the position; 8 number of events handled; then four lists, each after its length:
--   threads and events that join the waiting events; threads and waiting events that are done with; threads, events, ms until they are due
--   ('inf': parked) and records of events that failed; effects: number of words, command, number of its key, arguments. With effects there
--   is one event.
-- Reply: {'ok', threads of the second list with no waiting events any more, threads that are due, ms until the next is due (-1 if there is
--   none)}.
--   Nothing written: {'fenced'} if the lease has another token; {'trimmed'} or {'lost'} as `standing` of reading.lua has it, {'lost'} also if
--   the last settlement has another stamp; {'refused', number of the effect, error} if an effect cannot run.
--   {'halfway', number of the effect, error} if an effect failed after others had run; nothing else is written.
-- Guarantees: a settlement that is sent again is known by its stamp and changes nothing. Another stamp than that in ARGV 3 shows that the
--   server lost settlements, as in a failover.

local positions, state, held, failures, due, feed, trimmed = unpack(KEYS, 1, 7)
local EFFECT_KEYS = 7 -- the number of keys before those of effects
local group, token, stamp_before, stamp, id, fingerprint, n, handled = unpack(ARGV, 1, 8)
local found = redis.call('HMGET', state, 'token', 'stamp', 'halfway')
if found[1] ~= token then
  return { 'fenced' }
end
local is_repeated = found[2] == stamp
if not is_repeated then
  if (found[2] or '') ~= stamp_before then
    return { 'lost' }
  end
  local status = id == '' and 'ok' or standing(feed, trimmed, id, fingerprint)
  if status ~= 'ok' then
    return { status }
  end
end

local at = 9
-- The list in ARGV that is next, of `step` words an item.
local function list(step)
  local out, length = {}, tonumber(ARGV[at]) * step
  for i = 1, length do
    out[i] = ARGV[at + i]
  end
  at = at + 1 + length
  return out
end
local joined, done, failed = list(2), list(2), list(4)

-- Whether a thread has waiting events.
local function has_waiting(thread)
  local prefix = ordered(thread)
  return redis.call('ZRANGEBYLEX', held, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
end

local free = {}
if is_repeated then
  for i = 1, #done, 2 do
    if not has_waiting(done[i]) then
      free[#free + 1] = done[i]
    end
  end
  return { 'ok', free, due_of(due) }
end
if found[3] and string.sub(found[3], 1, #stamp + 1) == stamp .. ' ' then -- repeated
  local number, error = string.match(found[3], '^%S+ (%d+) (.*)$')
  return { 'halfway', tonumber(number), error }
end

local KINDS = {
  hash = { HSET = 1, HSETNX = 1, HDEL = 1, HINCRBY = 1, HINCRBYFLOAT = 1 },
  string = { INCRBY = 1, DECRBY = 1, INCRBYFLOAT = 1, APPEND = 1 },
  zset = { ZADD = 1, ZINCRBY = 1, ZREM = 1 },
  set = { SADD = 1, SREM = 1 },
  list = { RPUSH = 1, LPUSH = 1, LTRIM = 1 },
  stream = { XADD = 1 },
  any = { PEXPIRE = 1, DEL = 1, SET = 1 },
}
local effects = {}
for i = 1, tonumber(ARGV[at]) do
  local size = tonumber(ARGV[at + 1])
  local command, key = ARGV[at + 2], KEYS[EFFECT_KEYS + tonumber(ARGV[at + 3])]
  effects[i] = { command, key, unpack(ARGV, at + 4, at + 1 + size) }
  at = at + size + 1
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'none' and not KINDS.any[command] and not (KINDS[kind] and KINDS[kind][command]) then
    return { 'refused', i, command .. ' on a key that holds a ' .. kind }
  end
end
if #effects > 0 then -- a server that takes no writes refuses this one, so that its error is not taken for an effect's
  redis.call('HSET', state, 'stamp', stamp_before)
elseif #joined == 0 and #failed == 0 then -- the rest needs no room: a first write that a full server takes lets it take them all
  redis.call('HDEL', state, '')
end
for i, effect in ipairs(effects) do
  local reply = redis.pcall(unpack(effect))
  if type(reply) == 'table' and reply.err then
    if i > 1 then
      redis.call('HSET', state, 'halfway', stamp .. ' ' .. i .. ' ' .. reply.err)
    end
    return { i == 1 and 'refused' or 'halfway', i, reply.err }
  end
end

for i = 1, #joined, 2 do
  redis.call('ZADD', held, 0, joined[i + 1])
  redis.call('ZADD', due, 'NX', 0, joined[i])
end
for i = 1, #done, 2 do
  local thread = done[i]
  redis.call('ZREM', held, done[i + 1])
  redis.call('HDEL', failures, thread)
  if has_waiting(thread) then
    redis.call('ZADD', due, 0, thread)
  else
    redis.call('ZREM', due, thread)
    free[#free + 1] = thread
  end
end
local now = clock()
for i = 1, #failed, 4 do
  local thread, event, ms, record = unpack(failed, i, i + 3)
  redis.call('ZADD', held, 0, event)
  redis.call('ZADD', due, ms == 'inf' and 'inf' or string.format('%.0f', now + tonumber(ms)), thread)
  redis.call('HSET', failures, thread, record)
end
redis.call('HSET', state, 'stamp', stamp)
if id ~= '' then
  redis.call('HSET', state, 'id', id, 'check', fingerprint, 'n', n)
  redis.call('HSET', positions, group, id)
end
if tonumber(handled) > 0 then
  local was = redis.call('HMGET', state, 'rate', 'at')
  local passed = math.max(0, now - tonumber(was[2] or now)) / 1000
  local rate = tonumber(was[1] or 0) * math.exp(-passed / 60) + tonumber(handled) / 60
  redis.call('HINCRBY', state, 'handled', handled)
  redis.call('HSET', state, 'rate', string.format('%.6f', rate), 'at', string.format('%.0f', now))
end
return { 'ok', free, due_of(due) }
