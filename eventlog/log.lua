-- Prelude, behind names.lua, of every script that works on a thread's log.
--
-- KEYS of such a script begin with:
--   1 log, 2 index, 3 order, 4 threads, 5 feed, 6 runs, 7 expiries
-- and ARGV with: 1 the thread id.
--
-- A script validates first and writes last, and its first write is the XADD, which the server refuses when it is full,
-- read-only or cannot persist: nothing is ever half-written. Times are ms since 1970 by the server's clock, which stands still
-- while a script runs.

local LOG, INDEX, ORDER, THREADS, FEED, RUNS, EXPIRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local THREAD = ARGV[1]
local WRITES_ONLY = 86400000 -- a log whose checkpoint never came is kept for a day
local IDLE = 3600000 -- heads of namespaces other than the root's are views that are dropped after an hour without use
local CHUNK = 1000 -- values in one call: Lua's unpack fails past some thousands

local time = redis.call('TIME')
local NOW = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Calls `command key ...` with the values of `list`, some at a time (`step` values belong together).
local function in_chunks(command, key, list, step)
  local size = CHUNK - CHUNK % (step or 1)
  for first = 1, #list, size do
    redis.call(command, key, unpack(list, first, math.min(first + size - 1, #list)))
  end
end

local function forget(thread)
  forget_thread(THREADS, RUNS, EXPIRIES, thread)
end

-- Where the log stands: {n, d, l, c} (sequence number, digest, last entry id, entries), or nil and why not:
-- 'stale': index and log do not belong together, the index has to be rebuilt; 'lost': the thread is known, its log is gone.
local function open()
  local state = redis.call('HMGET', INDEX, 'n', 'd', 'l', 'c')
  local length = redis.call('XLEN', LOG)
  if state[1] then
    if length == tonumber(state[4]) and redis.call('ZSCORE', ORDER, '') then
      return { n = tonumber(state[1]), d = state[2], l = state[3], c = length }
    end
    return nil, length == 0 and 'lost' or 'stale'
  end
  if length > 0 then
    return nil, 'stale'
  end
  if redis.call('EXISTS', ORDER) == 1 then
    return nil, 'lost'
  end
  if redis.call('ZSCORE', THREADS, 't' .. THREAD) and redis.call('ZSCORE', EXPIRIES, '') then
    local expiry = redis.call('ZSCORE', EXPIRIES, 't' .. THREAD)
    if not expiry or tonumber(expiry) > NOW then
      return nil, 'lost'
    end
  end
  return { n = 0, d = '', l = '0-0', c = 0, first = true }
end

-- Which of the partition's views are whole; asked before anything is written, since a key of another type is an error.
local function shared_views()
  return {
    first = redis.call('XLEN', FEED) == 0,
    threads = redis.call('ZSCORE', THREADS, ''),
    runs = redis.call('ZSCORE', RUNS, ''),
    expiries = redis.call('ZSCORE', EXPIRIES, ''),
  }
end

-- The checkpoint id and the number of entries of writes of a head. It is that of the log if the order has its checkpoint as the
-- newest of the namespace, with as many entries of writes; else it is as good as none: it outlived a log that was replaced.
local function head_of(head, ns_place)
  local found = redis.call('HMGET', head, 'id', 'at', 'w')
  if not found[1] or not found[2] or not found[3] then
    return nil
  end
  local place = ns_place .. ordered(found[1])
  local writes = redis.call('ZLEXCOUNT', ORDER, '[w' .. place, '(w' .. place .. '\255')
  if newest(ORDER, ns_place) ~= 'c' .. place .. found[2] or writes ~= tonumber(found[3]) then
    return nil
  end
  return { id = found[1], w = writes }
end

-- Whether an entry holds just these fields, behind its number and digest.
local function same_fields(entry, fields)
  if #entry ~= #fields + 4 then
    return false
  end
  for i = 1, #fields do
    if entry[i + 4] ~= fields[i] then
      return false
    end
  end
  return true
end

-- The mark of the call that made an entry or event, nil if it has none.
local function mark_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'r' then
      return fields[i + 1]
    end
  end
end

-- An id of its own ms for every entry, ahead of the clock if need be: so ids sort as text in the order they were given.
local function next_id(last)
  return string.format('%.0f-0', math.max(NOW, tonumber(string.match(last, '^%d+')) + 1))
end

-- Appends an event, whose fields and their digest the client made, and chains it to its predecessor. Returns its entry id.
local function append(state, content, fields)
  local id = next_id(state.l)
  local n = string.format('%.0f', state.n + 1)
  local digest = redis.sha1hex(table.concat({ state.d, id, n, content }, '\n'))
  redis.call('XADD', LOG, id, 'n', n, 'd', digest, unpack(fields))
  state.n, state.d, state.l, state.c = state.n + 1, digest, id, state.c + 1
  return id
end

-- Writes the state of the log into the index, with what else `extra` has for it.
local function commit(state, extra)
  if state.first then
    redis.call('ZADD', ORDER, 0, '')
  end
  local n = string.format('%.0f', state.n)
  redis.call('HSET', INDEX, 'n', n, 'd', state.d, 'l', state.l, 'c', string.format('%.0f', state.c))
  in_chunks('HSET', INDEX, extra or {}, 2)
end

-- Announces an event in the feed of the partition, and keeps the partition's views, as `shared_views` found them. `pointer`: kind,
-- ns, checkpoint, source, step, run; 7 what the feed is to have for the run instead. A view that was deleted is left alone: it is
-- rebuilt whole from the feed.
local function announce(state, views, pointer, register)
  local pointer_id = redis.call('XADD', FEED, '*', 'thread', THREAD, 'id', state.l, 'seq', string.format('%.0f', state.n),
    'digest', state.d, 'kind', pointer[1], 'ns', pointer[2], 'checkpoint', pointer[3], 'source', pointer[4], 'step', pointer[5],
    'run', pointer[7] or pointer[6])
  if views.first then
    redis.call('ZADD', THREADS, 0, '')
    redis.call('ZADD', RUNS, 0, '')
    redis.call('ZADD', EXPIRIES, 'inf', '')
  end
  if register and (views.first or views.threads) then
    redis.call('ZADD', THREADS, string.match(pointer_id, '^%d+'), 't' .. THREAD)
  end
  if register and (views.first or views.runs) and pointer[6] ~= '' then
    remember_run(RUNS, THREAD, pointer[6])
  end
end

local function expire_at(key, at)
  redis.call('PEXPIREAT', key, string.format('%.0f', at))
end

-- Lets all keys of the thread expire together, `ttl` ms from now (0: leaves them as they are); a longer life that they have
-- already is kept. `heads`: the heads at hand, the namespace's own first. `idle`: that one is dropped when not used.
local function keep_alive(ttl, heads, idle)
  local left = redis.call('PTTL', LOG)
  local at = left >= 0 and NOW + left or nil
  if ttl > 0 then
    at = math.max(at or 0, NOW + ttl)
    for _, key in ipairs({ LOG, INDEX, ORDER }) do
      expire_at(key, at)
    end
    redis.call('ZADD', EXPIRIES, string.format('%.0f', at), 't' .. THREAD)
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', EXPIRIES, '-inf', string.format('%.0f', NOW), 'LIMIT', 0, 4)) do
      forget(string.sub(member, 2))
    end
  end
  if at then
    for _, key in ipairs(heads) do
      expire_at(key, at)
    end
  else
    redis.call('ZREM', EXPIRIES, 't' .. THREAD)
  end
  if idle and (not at or at > NOW + IDLE) then
    expire_at(heads[1], NOW + IDLE)
  end
end
