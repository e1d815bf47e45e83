-- Prelude, behind names.lua, of every script that works on a thread's log.
--
-- KEYS of such a script begin with:
--   1 log, 2 index, 3 order, 4 threads, 5 feed, 6 runs, 7 expiries
-- and ARGV with: 1 the thread id.
--
-- A script validates first and writes last, and its first write is an XADD, to the feed, which the server refuses when it is full,
-- read-only or cannot persist: nothing is ever half-written. Times are ms since 1970 by the server's clock.

local LOG, INDEX, ORDER, THREADS, FEED, RUNS, EXPIRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local THREAD = ARGV[1]
local WRITES_ONLY = 86400000 -- a log whose checkpoint never came is kept for a day
local IDLE = 3600000 -- heads of namespaces other than the root's are views that are dropped after an hour without use
local CHUNK = 1000 -- values in one call: Lua's unpack fails past some thousands

local time
-- The server's clock, which stands still while a script runs.
local function now()
  time = time or redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Calls `command key ...` with the values of `list`, some at a time (`step` values belong together).
local function in_chunks(command, key, list, step)
  local size = CHUNK - CHUNK % (step or 1)
  for first = 1, #list, size do
    redis.call(command, key, unpack(list, first, math.min(first + size - 1, #list)))
  end
end

-- The values of some fields of a hash.
local function hmget(key, names)
  if #names <= CHUNK then
    return redis.call('HMGET', key, unpack(names))
  end
  local out = {}
  for first = 1, #names, CHUNK do
    local some = redis.call('HMGET', key, unpack(names, first, math.min(first + CHUNK - 1, #names)))
    for i = 1, #some do
      out[first + i - 1] = some[i]
    end
  end
  return out
end

local function forget(thread)
  forget_thread(THREADS, RUNS, EXPIRIES, thread)
end

local OPENED = 5 -- index fields that `open` reads before those that `more` names

-- Where the log stands: {n, d, l, c, h} (sequence number, digest, last entry id, entries, hidden checkpoints), and `values` of
-- the index fields that `more` names; or nil and why not: 'stale': index and log do not belong together, the index has to be
-- rebuilt; 'lost': the thread is known, its log is gone. `seen`: a checkpoint that the order was seen to have, which shows that
-- it is whole.
local function open(more, seen)
  local names = { 'n', 'd', 'l', 'c', 'h' }
  for i = 1, more and #more or 0 do
    names[OPENED + i] = more[i]
  end
  local values = hmget(INDEX, names)
  local length = redis.call('XLEN', LOG)
  if values[1] then
    if length == tonumber(values[4]) and (seen or redis.call('ZSCORE', ORDER, '')) then
      return { n = tonumber(values[1]), d = values[2], l = values[3], c = length, h = tonumber(values[5] or 0), values = values }
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
    if not expiry or tonumber(expiry) > now() then
      return nil, 'lost'
    end
  end
  return { n = 0, d = '', l = '0-0', c = 0, h = 0, first = true, values = values }
end

-- Which of the partition's views are whole; asked before anything is written, since a key of another type is an error. `run`: whether
-- runs are written to, `expiry`: whether expiries are, which lets threads that have ended be forgotten, their runs too.
local function shared_views(run, expiry)
  local threads = redis.call('ZSCORE', THREADS, '')
  local first = not threads and redis.call('EXISTS', FEED) == 0 -- one that was trimmed to nothing is there still
  return {
    first = first,
    threads = threads,
    runs = (first or run or expiry) and redis.call('ZSCORE', RUNS, ''),
    expiries = (first or expiry) and redis.call('ZSCORE', EXPIRIES, ''),
  }
end

-- Whether a head whose fields `id` and `at` are given is that of a namespace's newest checkpoint.
local function is_head_of(last, ns_place, id, at)
  return last and id and at and last == 'c' .. ns_place .. ordered(id) .. at
end

-- The checkpoint id and the number of entries of writes of a head. It is that of the log if `last`, the namespace's newest in the
-- order, is its checkpoint, with as many entries of writes; else it is as good as none: it outlived a log that was replaced.
local function head_of(head, ns_place, last)
  local found = redis.call('HMGET', head, 'id', 'at', 'w')
  if not found[3] or not is_head_of(last, ns_place, found[1], found[2]) then
    return nil
  end
  local place = ns_place .. ordered(found[1])
  local writes = redis.call('ZLEXCOUNT', ORDER, '[w' .. place, '(w' .. place .. '\255')
  if writes ~= tonumber(found[3]) then
    return nil
  end
  return { id = found[1], w = writes }
end

-- Whether an entry says what these fields do, whoever it was that said it: behind its number and digest, kind, schema version, envelope.
local function same_event(entry, fields)
  for i = 1, 6 do
    if entry[i + 4] ~= fields[i] then
      return false
    end
  end
  return true
end

-- The idempotency key of the call that made an entry or event, nil if it has none.
local function idempotency_key_of(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'r' then
      return fields[i + 1]
    end
  end
end

-- An id of its own ms for every entry, ahead of the clock if need be: so ids sort as text in the order they were given.
local function next_id(last)
  return string.format('%.0f-0', math.max(now(), tonumber(string.match(last, '^%d+')) + 1))
end

-- Appends an event, whose fields and their digest the client made, and chains it to its predecessor. Returns its entry id.
local function append(state, content, fields)
  local id = next_id(state.l)
  local n = string.format('%.0f', state.n + 1)
  local digest = redis.sha1hex(state.d .. '\n' .. id .. '\n' .. n .. '\n' .. content)
  redis.call('XADD', LOG, id, 'n', n, 'd', digest, unpack(fields))
  state.n, state.d, state.l, state.c = state.n + 1, digest, id, state.c + 1
  return id
end

-- Writes the state of the log into the index, with what else `extra` has for it, and `scores and members` into the order.
local function commit(state, extra, added)
  local fields = { 'n', string.format('%.0f', state.n), 'd', state.d, 'l', state.l, 'c', string.format('%.0f', state.c) }
  for i = 1, extra and #extra or 0 do
    fields[8 + i] = extra[i]
  end
  in_chunks('HSET', INDEX, fields, 2)
  added = added or {}
  if state.first then
    added[#added + 1] = 0
    added[#added + 1] = ''
  end
  in_chunks('ZADD', ORDER, added, 2)
end

-- Announces the last of some events that are about to be appended in the feed of the partition, and keeps the partition's views, as
-- `shared_views` found them. `pointer`: kind, ns, checkpoint, source, step, run, channels, nodes, of which the last two may be missing;
-- 9 what the feed is to have for the run instead. A view that was deleted is left alone: it is rebuilt whole from the feed.
local function announce(state, events, views, pointer, register)
  local id = state.l
  for _ = 1, events do
    id = next_id(id)
  end
  local pointer_id = redis.call('XADD', FEED, '*', 'thread', THREAD, 'id', id, 'seq', string.format('%.0f', state.n + events),
    'kind', pointer[1], 'ns', pointer[2], 'checkpoint', pointer[3], 'source', pointer[4], 'step', pointer[5], 'run',
    pointer[9] or pointer[6], 'channels', pointer[7] or '', 'nodes', pointer[8] or '')
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
-- already is kept. `left`: ms that the log has left, -1 for ever. `heads`: the heads at hand, the namespace's own first. `idle`:
-- that one is dropped when not used.
local function keep_alive(ttl, left, heads, idle)
  local at = left >= 0 and now() + left or nil
  if ttl > 0 then
    at = math.max(at or 0, now() + ttl)
    for _, key in ipairs({ LOG, INDEX, ORDER }) do
      expire_at(key, at)
    end
    redis.call('ZADD', EXPIRIES, string.format('%.0f', at), 't' .. THREAD)
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', EXPIRIES, '-inf', string.format('%.0f', now()), 'LIMIT', 0, 4)) do
      local thread = string.sub(member, 2)
      redis.call('XADD', FEED, '*', 'thread', thread, 'id', '', 'seq', '0', 'kind', 'expired', 'ns', '', 'checkpoint', '', 'source', '',
        'step', '', 'run', '', 'channels', '', 'nodes', '')
      forget(thread)
    end
  end
  if at then
    for _, key in ipairs(heads) do
      expire_at(key, at)
    end
  end
  if idle and (not at or at > now() + IDLE) then
    expire_at(heads[1], now() + IDLE)
  end
end

-- Notes that a thread which had an end, or may have had one before it began anew, has none.
local function never_expires()
  redis.call('ZREM', EXPIRIES, 't' .. THREAD)
end
