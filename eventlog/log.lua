-- Prelude, after names.lua, for every script on a thread's log.
--
-- KEYS: 1 log, 2 index, 3 order, 4 threads, 5 feed, 6 runs, 7 expiries; then those of the script.
-- ARGV: 1 thread id; then those of the script.
-- Guarantees: a script validates before it writes. Its first write is an XADD to the feed, which a server refuses if it is
--   full, read-only or unable to persist. So no write is partial.
--
-- Times are ms since 1970 by the server's clock.

local LOG, INDEX, ORDER, THREADS, FEED, RUNS, EXPIRIES = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local THREAD = ARGV[1]
local WRITES_ONLY = 86400000 -- life of a log without a checkpoint: a day
local IDLE = 3600000 -- life of an unused head of a namespace other than the root: an hour
local CHUNK = 1000 -- values in one call, since Lua's unpack fails above some thousands
local PART = 400 -- bytes that a field, a version or a value counts for beside its own, since the work on many short ones takes time, too
local WRITES, WRITES_BYTES = 500, 4194304 -- entries of writes of one checkpoint that a script reads, and bytes after which it reads no more
local HEAD_WRITES = 10000 -- entries of writes in a head, as in projections/values/stored.py

local time
-- The server's time, which is constant while a script runs.
local function now()
  time = time or redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Calls `command key ...` with the values of `list` in chunks that keep `step` values together.
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

-- Removes a thread from the views of the partition, and a `share` of its runs as `forget_runs` says. Returns 1 if runs are left, else 0.
local function forget(thread, share)
  redis.call('ZREM', THREADS, 't' .. thread)
  redis.call('ZREM', EXPIRIES, 't' .. thread)
  return (forget_runs(RUNS, thread, share, true))
end

-- Whether a text is a number that this project writes: so short that arithmetic on it is exact.
local function is_count(text)
  return string.match(text, '^%d+$') and #text <= 15
end

local OPENED = 5 -- number of index fields that `open` reads before those of `more`

-- The state of the log: n sequence number, d digest, l last entry id, c number of entries, h number of hidden checkpoints, and
-- `values` of the index fields in `more`. Otherwise nil and a status: 'stale' if the index does not match the log and must be
-- rebuilt, 'lost' if the thread is known but its log is gone. `seen` is true if the caller found a checkpoint in the order,
-- which shows that the order is whole.
local function open(more, seen)
  local names = { 'n', 'd', 'l', 'c', 'h' }
  for i = 1, more and #more or 0 do
    names[OPENED + i] = more[i]
  end
  local values = hmget(INDEX, names)
  local length = redis.call('XLEN', LOG)
  if values[1] then
    local ms = string.match(values[3] or '', '^(%d+)%-0$')
    local whole = values[2] and ms and is_count(ms) and length == tonumber(values[4])
    local counts = is_count(values[1]) and is_count(values[5] or '0')
    if whole and counts and (seen or redis.call('ZSCORE', ORDER, '')) then
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

-- Which views of the partition are whole. Call it before the first write, since a key of another type is an error. `run` tells
-- whether the script writes runs, `expiry` whether it writes expiries and so forgets expired threads and their runs.
local function shared_views(run, expiry)
  local threads = redis.call('ZSCORE', THREADS, '')
  local first = not threads and redis.call('EXISTS', FEED) == 0 -- a feed without entries exists after a trim
  return {
    first = first,
    threads = threads,
    runs = (first or run or expiry) and redis.call('ZSCORE', RUNS, ''),
    expiries = (first or expiry) and redis.call('ZSCORE', EXPIRIES, ''),
  }
end

-- Whether a head with these fields `id` and `at` is of `last`, the namespace's newest checkpoint in the order.
local function is_head_of(last, ns_key, id, at)
  return last and id and at and last == 'c' .. ns_key .. ordered(id) .. at
end

-- The number in a field, nil if there is none.
local function whole_number(field)
  return field and string.match(field, '^%d+$') and tonumber(field)
end

-- The checkpoint id of a head, the number of entries of writes, and its bytes as `head_upkeep.lua` counts them. Nil unless the head
-- has the checkpoint of `last` and as many entries of writes as the order: other heads outlived a log that was replaced.
local function head_of(head, ns_key, last)
  local found = redis.call('HMGET', head, 'id', 'at', 'w', 'vb', 'wb')
  if not found[3] or not is_head_of(last, ns_key, found[1], found[2]) then
    return nil
  end
  local sort_key = ns_key .. ordered(found[1])
  local writes = redis.call('ZLEXCOUNT', ORDER, '[w' .. sort_key, '(w' .. sort_key .. '\255')
  if writes ~= tonumber(found[3]) then
    return nil
  end
  return { id = found[1], w = writes, value_bytes = whole_number(found[4]), write_bytes = whole_number(found[5]) }
end

-- The value of a field among names and values in turn, nil if there is none.
local function field_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then
      return fields[i + 1]
    end
  end
end

-- The fields of an entry, names and values in turn, nil if the log lacks it.
local function fields_at(entry_id)
  local entry = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
  return entry and entry[2]
end

-- The bytes that the fields of an entry count for in the bounds of a script.
local function weight_of(fields)
  local bytes = PART / 2 * #fields
  for i = 2, #fields, 2 do
    bytes = bytes + #fields[i]
  end
  return bytes
end

-- The next entry id, with a ms of its own, if necessary ahead of the clock. So ids sort as text.
local function next_id(last)
  return string.format('%.0f-0', math.max(now(), tonumber(string.match(last, '^%d+')) + 1))
end

local announced -- id of the pointer that this script added to the feed

-- Appends an event with the client's fields and content digest, and chains it to the last entry. Returns its entry id. If the log takes
-- no greater id, as after an XSETID, it takes the pointer back and raises the server's error.
local function append(state, content, fields)
  local id = next_id(state.l)
  local n = string.format('%.0f', state.n + 1)
  local digest = redis.sha1hex(state.d .. '\n' .. id .. '\n' .. n .. '\n' .. content)
  local added = redis.pcall('XADD', LOG, id, 'n', n, 'd', digest, unpack(fields))
  if type(added) == 'table' and added.err then
    redis.call('XDEL', FEED, announced)
    return error(added.err, 0)
  end
  state.n, state.d, state.l, state.c = state.n + 1, digest, id, state.c + 1
  return id
end

-- Writes the state of the log and the fields in `extra` into the index, and the scores and members in `added` into the order.
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

-- Whether runs of an earlier thread of this name have to be removed before the thread begins.
local function has_old_runs()
  return redis.call('ZSCORE', RUNS, ended(THREAD))
end

-- Appends a pointer to the feed for the last of `events` events that follow, and updates the views that are whole, according to
-- `shared_views`. A deleted view stays deleted, since it is rebuilt from the feed. `pointer` is 1 kind, 2 ns, 3 checkpoint,
-- 4 source, 5 step, 6 run, 7 channels, 8 nodes (both optional), 9 another text for the run of the pointer (optional).
local function announce(state, events, views, pointer, register)
  local id = state.l
  for _ = 1, events do
    id = next_id(id)
  end
  announced = redis.call('XADD', FEED, '*', 'thread', THREAD, 'id', id, 'seq', string.format('%.0f', state.n + events),
    'kind', pointer[1], 'ns', pointer[2], 'checkpoint', pointer[3], 'source', pointer[4], 'step', pointer[5], 'run',
    pointer[9] or pointer[6], 'channels', pointer[7] or '', 'nodes', pointer[8] or '')
  if views.first then
    redis.call('ZADD', THREADS, 0, '')
    redis.call('ZADD', RUNS, 0, '')
    redis.call('ZADD', EXPIRIES, 'inf', '')
  end
  if register and (views.first or views.threads) then
    redis.call('ZADD', THREADS, string.match(announced, '^%d+'), 't' .. THREAD)
  end
  if register and (views.first or views.runs) and pointer[6] ~= '' then
    remember_run(RUNS, THREAD, pointer[6])
  end
end

local function expire_at(key, at)
  redis.call('PEXPIREAT', key, string.format('%.0f', at))
end

-- Sets the expiry of all keys of the thread to `ttl` ms from now; 0 leaves it. A longer life stays. `left` is the ms that the log
-- has left, -1 without an expiry. `heads` are the heads that the script knows, that of its namespace first; with `idle` that one
-- also expires if it is not used.
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
      forget(thread, 0.25)
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

-- Records that a thread has no expiry, although it or a deleted thread of that name may have had one.
local function never_expires()
  redis.call('ZREM', EXPIRIES, 't' .. THREAD)
end
