-- Appends writes of a task to the log and the feed, and folds them into index, order and head.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/pending_writes, projections/checkpoints/event_arguments.
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 ttl in ms, 0 for none; 3 namespace; 4 checkpoint id; 5 namespace's sort key; 6 checkpoint's sort key;
--   7 task id, ordered; for the feed: 8 step or '', 9 run or '', 10 channels and 11 nodes, counted; 12 most bytes of a head;
--   13 digest that the writer had seen, and 14 beginning of its seals, '' for none; 15 number of events, then each as
--   event_arguments.lua says.
-- Reply: {'ok', entry id and digest of the last}; {'same'} if the writes change nothing;
--   {'unseen', ...} as event_arguments.lua says; {'gone', entry id} if the log lacks an entry; {'ended'} if runs of an earlier thread
--   are left, see `forget_runs.lua`; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: writes all of it, or, with any other reply than 'ok', nothing.

local HEAD, ROOT = KEYS[8], KEYS[9]
local ttl, ns, id, ns_sort_key, sort_key, task = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local step, run, channels, nodes = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local most_bytes, events = tonumber(ARGV[12]), events_at(16, tonumber(ARGV[15]))

local last = newest(ORDER, ns_sort_key)
local state, why = open(nil, last)
if not state then
  return { why }
end
local strange = unseen(state, ARGV[13], ARGV[14])
if strange then
  return strange
end

local head = head_of(HEAD, ns_sort_key, last)
local on_head = head and head.id == id
local views = shared_views(false, ttl > 0 or state.first)
if state.first and has_old_runs() then
  return { 'ended' }
end
local left = redis.call('PTTL', LOG)

-- By name, the task's latest writes, their paths, and their calls' idempotency keys. They come from its newest entries, as many as
-- are put at least. A repetition of an older call may so be appended, and changes no state: a name's first ordinary write counts.
local values, paths, calls = {}, {}, {}
local prefix, bytes = 'w' .. sort_key .. task, 0
local earlier = redis.call('ZREVRANGEBYLEX', ORDER, '(' .. prefix .. '\255', '[' .. prefix, 'LIMIT', 0, WRITES)
for i, member in ipairs(earlier) do
  if i > #events and bytes > WRITES_BYTES then
    break
  end
  local entry_id = string.sub(member, #prefix + 1)
  local fields = fields_at(entry_id)
  if not fields then
    return { 'gone', entry_id }
  end
  bytes = bytes + weight_of(fields)
  local call = field_of(fields, 'r')
  each_write(fields, function(name, path, value)
    if not values[name] then
      values[name], paths[name], calls[name] = value, path, call
    end
  end)
end

-- Whether an event has a write that is new, or a special one that differs from the task's earlier one.
local function changes(fields)
  local found, call = false, field_of(fields, 'r')
  each_write(fields, function(name, path, value, is_special)
    local is_repeated = (values[name] == value and paths[name] == path) or (call and calls[name] == call)
    found = found or not values[name] or (is_special and not is_repeated)
  end)
  return found
end

local fresh = {}
for _, event in ipairs(events) do
  if changes(event.fields) then
    fresh[#fresh + 1] = event
  end
end
if #fresh == 0 then
  return { 'same' }
end

-- Adds writes to a head. False, and nothing written, if it would have more bytes or writes than a head may.
local function add_writes(key, head, added, most)
  local fields, bytes = { 'w', head.w + #added, 'wb', 0 }, head.write_bytes
  if not bytes or not head.value_bytes or head.w + #added > HEAD_WRITES then
    return false
  end
  for i, event in ipairs(added) do
    local packed = packed_writes(event.fields)
    fields[#fields + 1] = '!' .. (head.w + i)
    fields[#fields + 1] = packed
    bytes = bytes + #packed
  end
  fields[4] = bytes
  if head.value_bytes + bytes > most then
    return false
  end
  in_chunks('HSET', key, fields, 2)
  return true
end

-- From here on it writes.

local has_checkpoint = last or redis.call('ZRANGEBYLEX', ORDER, '[c', '(d', 'LIMIT', 0, 1)[1]
announce(state, #fresh, views, { 'writes', ns, id, '', step, '', channels, nodes, run }, has_checkpoint)
local added = {}
for i, event in ipairs(fresh) do
  added[2 * i - 1] = 0
  added[2 * i] = 'w' .. sort_key .. task .. append(state, event.content, event.fields)
end
commit(state, nil, added)
if not (head and (not on_head or add_writes(HEAD, head, fresh, most_bytes))) then
  redis.call('UNLINK', HEAD)
end
if state.first and ttl == 0 then
  for _, key in ipairs({ LOG, INDEX, ORDER }) do
    expire_at(key, now() + WRITES_ONLY)
  end
  never_expires()
else
  keep_alive(ttl, left, HEAD == ROOT and { HEAD } or { HEAD, ROOT }, HEAD ~= ROOT and on_head)
end
return { 'ok', state.l, state.d }
