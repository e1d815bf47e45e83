-- Appends a checkpoint, folds it into the index and the head, and announces it: all of it or nothing.
--
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 ttl in ms, 0 for none; 3 namespace; 4 checkpoint id; 5 parent id or ''; 6 namespace's place; 7 checkpoint's
--   place (namespace's, then id's); 8 source; 9 step; 10 run or ''; 11 number of events; then for each event (those with the
--   overflow of values first, the checkpoint last): content digest, number of fields, fields.
-- Reply: {'ok', entry id}; {'same', entry id} if this very event is what the log already holds for the checkpoint;
--   {'gone', entry id} if the log lacks an entry, {'stale'} or {'lost'} as log.lua has it, nothing written.

local HEAD, ROOT = KEYS[8], KEYS[9]
local ttl, ns, id, parent, ns_place, place = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local source, step, run = ARGV[8], ARGV[9], ARGV[10]

local state, why = open()
if not state then
  return { why }
end

local events, at = {}, 12
for event = 1, tonumber(ARGV[11]) do
  local size = tonumber(ARGV[at + 1])
  local fields = { unpack(ARGV, at + 2, at + 1 + size) }
  events[event] = { content = ARGV[at], fields = fields }
  at = at + 2 + size
end

local old = members(ORDER, 'c' .. place)[1]
if old then
  local entry_id = string.sub(old, #place + 2)
  local entry = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
  local fields = events[#events].fields
  local mark = mark_of(fields)
  if entry and (same_fields(entry[2], fields) or (mark and mark == mark_of(entry[2]))) then
    return { 'same', entry_id }
  end
end

local only = not newest(ORDER, ns_place)
local latest = not redis.call('ZRANGEBYLEX', ORDER, '(c' .. place .. '\255', '(c' .. ns_place .. '\255', 'LIMIT', 0, 1)[1]
local head = head_of(HEAD, ns_place)
local views = shared_views()
local only_writes = redis.call('PTTL', LOG) >= 0 and not redis.call('ZSCORE', EXPIRIES, 't' .. THREAD)
  and not redis.call('ZRANGEBYLEX', ORDER, '[c', '(d', 'LIMIT', 0, 1)[1]

local early = {}
for i, member in ipairs(members(ORDER, 'w' .. place)) do
  local early_id = writes_entry(member, place)
  local entry = redis.call('XRANGE', LOG, early_id, early_id)[1]
  if not entry then
    return { 'gone', early_id }
  end
  early[i] = entry[2]
end

-- From here on it writes.

local extra, pieces, envelope, versions, entry_id = {}, {}, nil, nil, nil
for _, event in ipairs(events) do
  entry_id = append(state, event.content, event.fields)
  for i = 1, #event.fields, 2 do
    local name, value = event.fields[i], event.fields[i + 1]
    if string.byte(name) == 61 then
      extra[#extra + 1] = 'v' .. counted(ns) .. string.sub(name, 2)
      extra[#extra + 1] = entry_id
      local size, rest = string.match(name, '^=(%d+):()')
      pieces[#pieces + 1] = '=' .. string.sub(name, rest + size)
      pieces[#pieces + 1] = size .. ':' .. string.sub(name, rest, rest + size - 1) .. value
    elseif name == 'e' then
      envelope = value
    elseif name == 's' then
      versions = value
    end
  end
end
commit(state, extra)
if only_writes then -- they came first, and their log was to be kept for a day only
  for _, key in ipairs({ LOG, INDEX, ORDER }) do
    redis.call('PERSIST', key)
  end
end
if old then
  redis.call('ZREM', ORDER, old)
end
for _, hidden in ipairs(members(ORDER, 'h' .. place)) do
  redis.call('ZREM', ORDER, hidden)
end
redis.call('ZADD', ORDER, 0, 'c' .. place .. entry_id)

local follows = head and head.id == parent and latest and not old
if follows or (only and latest) then
  if not head then
    redis.call('DEL', HEAD)
  elseif head.w > 0 then -- the parent's pending writes
    local stale = {}
    for _, name in ipairs(redis.call('HKEYS', HEAD)) do
      if string.byte(name) == 33 then -- '!'
        stale[#stale + 1] = name
      end
    end
    in_chunks('HDEL', HEAD, stale)
  end
  redis.call('HSET', HEAD, 'id', id, 'at', entry_id, 'p', parent, 'e', envelope, 's', versions, 'w', #early)
  in_chunks('HSET', HEAD, pieces, 2)
  for _, fields in ipairs(early) do
    hold_writes(HEAD, fields)
  end
elseif latest or old or #pieces > 0 or not head then -- a value that comes late may be one that the head lacks
  redis.call('DEL', HEAD)
end
announce(state, views, { 'checkpoint', ns, id, source, step, run }, true)
keep_alive(ttl, HEAD == ROOT and { HEAD } or { HEAD, ROOT }, HEAD ~= ROOT)
return { 'ok', entry_id }
