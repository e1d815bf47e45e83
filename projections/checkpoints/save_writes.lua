-- Appends writes of a task, folds them into the index and the head, and announces them: all of it or nothing.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/pending_writes.
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 ttl in ms, 0 for none; 3 namespace; 4 checkpoint id; 5 namespace's place; 6 checkpoint's place; 7 task id,
--   ordered; 8 step and 9 run for the feed, '' for none; 10 channels and 11 nodes for the feed, counted; 12 number of events;
--   then for each event: content digest, number of fields, fields.
-- Reply: {'ok', entry id and digest of the last}; {'same'} if they change nothing; {'gone', entry id} if the log lacks an entry;
--   {'stale'} or {'lost'}; nothing written.

local HEAD, ROOT = KEYS[8], KEYS[9]
local ttl, ns, id, ns_place, place, task_place = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local last = newest(ORDER, ns_place)
local state, why = open(nil, last)
if not state then
  return { why }
end

local head = head_of(HEAD, ns_place, last)
local on_head = head and head.id == id
local views = shared_views(false, ttl > 0 or state.first)
local left = redis.call('PTTL', LOG)
local held, paths, keys_of_calls = {}, {}, {} -- what the task wrote to the checkpoint before, and the idempotency_key of the call, by name
for _, member in ipairs(members(ORDER, 'w' .. place .. task_place)) do
  local entry_id = string.sub(member, #place + #task_place + 2)
  local found = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
  if not found then
    return { 'gone', entry_id }
  end
  local entry = found[2]
  each_write(entry, function(name, path, value, special)
    if special or not held[name] then
      held[name], paths[name], keys_of_calls[name] = value, path, idempotency_key_of(entry)
    end
  end)
end

local fresh, at = {}, 13
for _ = 1, tonumber(ARGV[12]) do
  local size = tonumber(ARGV[at + 1])
  local fields = { unpack(ARGV, at + 2, at + 1 + size) }
  local changes = false
  each_write(fields, function(name, path, value, special)
    local again = (held[name] == value and paths[name] == path) or (keys_of_calls[name] and keys_of_calls[name] == idempotency_key_of(fields))
    if not held[name] or (special and not again) then
      changes = true
    end
  end)
  if changes then
    fresh[#fresh + 1] = { content = ARGV[at], fields = fields }
  end
  at = at + 2 + size
end
if #fresh == 0 then
  return { 'same' }
end

-- From here on it writes.

local known = last or redis.call('ZRANGEBYLEX', ORDER, '[c', '(d', 'LIMIT', 0, 1)[1]
announce(state, #fresh, views, { 'writes', ns, id, '', ARGV[8], '', ARGV[10], ARGV[11], ARGV[9] }, known)
local added = {}
for i, event in ipairs(fresh) do
  added[2 * i - 1] = 0
  added[2 * i] = 'w' .. place .. task_place .. append(state, event.content, event.fields)
end
commit(state, nil, added)
if on_head then
  local held_by_head = { 'w', head.w + #fresh }
  for i, event in ipairs(fresh) do
    held_by_head[#held_by_head + 1] = '!' .. (head.w + i)
    held_by_head[#held_by_head + 1] = packed_writes(event.fields)
  end
  in_chunks('HSET', HEAD, held_by_head, 2)
elseif not head then
  redis.call('DEL', HEAD)
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
