-- Appends a checkpoint, folds it into the index and the head, and announces it: all of it or nothing.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/pending_writes.
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 ttl in ms, 0 for none; 3 namespace; 4 checkpoint id; 5 parent id or ''; 6 namespace's place; 7 checkpoint's
--   place (namespace's, then id's); 8 source; 9 step; 10 run or ''; 11 channels and 12 nodes for the feed, counted; 13 number of events;
--   then for each event (those with the overflow of values first, the checkpoint last): content digest, number of fields, fields;
--   then channels whose pieces are compressed, and their pieces as they were before, which the head gets.
-- Reply: {'ok', entry id of each event, digest of the last}; {'same', entry id} if the log already holds what this very call says of the checkpoint;
--   {'base'} if a delta was made against what the log does not have; {'gone', entry id} if the log lacks an entry, {'stale'} or
--   {'lost'} as log.lua has it, nothing written.

local HEAD, ROOT = KEYS[8], KEYS[9]
local ttl, ns, id, parent, ns_place, place = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local pointer = { 'checkpoint', ns, id, ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12] }
local TRACKED = 128 -- bytes of a value that a delta may be made against

-- The part of `bytes` behind its length that begins at `from`, and where it ends.
local function counted_at(bytes, from)
  local size, start = string.match(bytes, '^(%d+):()', from)
  local stop = start + tonumber(size) - 1
  return string.sub(bytes, start, stop), stop
end

-- Channel, token and piece of the values in a field of an event; of a delta, entry and index field of what it was made against.
local function value_in(name, piece)
  local token, stop = counted_at(name, 2)
  local value = { name = string.sub(name, 2), channel = string.sub(name, stop + 1), token = token, piece = piece }
  local base, base_token, start = base_of(piece)
  if base then
    value.base, value.base_check = base, string.sub(piece, start, start + 7)
    value.base_name = 'v' .. counted(ns) .. counted(base_token) .. value.channel
  end
  return value
end

local events, values, bases, wanted, at = {}, {}, {}, { 'id', 'at', 'w', 'b', 'y' }, 14
local envelope, versions, seen, check, since, idempotency_key
for event = 1, tonumber(ARGV[13]) do
  local size = tonumber(ARGV[at + 1])
  local fields = { unpack(ARGV, at + 2, at + 1 + size) }
  events[event] = { content = ARGV[at], fields = fields }
  for i = 1, size, 2 do
    local name = fields[i]
    if string.byte(name) == 61 then -- '='
      local value = value_in(name, fields[i + 1])
      value.event = event
      values[#values + 1] = value
      wanted[#wanted + 1] = '#' .. value.channel
      if value.base then
        bases[#bases + 1] = value.base_name
      end
    elseif name == 'e' then
      envelope = fields[i + 1]
    elseif name == 's' then
      versions = fields[i + 1]
    elseif name == 'q' then
      seen = fields[i + 1]
    elseif name == 'y' then
      check = fields[i + 1]
    elseif name == 'b' then
      since = fields[i + 1]
    elseif name == 'r' then
      idempotency_key = fields[i + 1]
    end
  end
  at = at + 2 + size
end
local plain = {}
for i = at, #ARGV, 2 do
  plain[ARGV[i]] = ARGV[i + 1]
end

local last = newest(ORDER, ns_place)
local state, why = open(bases, last)
if not state then
  return { why }
end
at = OPENED
for _, value in ipairs(values) do
  if value.base then
    at = at + 1
    if state.values[at] ~= value.base .. value.base_check then
      return { 'base' }
    end
  end
end

-- Whether this checkpoint's id is greater than that of the newest. Compared byte by byte: `<` would depend on the server's locale.
local function is_later()
  for i = #ns_place + 1, #place do
    local mine, newest_has = string.byte(place, i), string.byte(last, i + 1)
    if mine ~= newest_has then
      return mine > newest_has
    end
  end
  return false
end

local old
if last and string.sub(last, 2, #place + 1) == place then
  old = last
end
local latest = not last or old or is_later()
if not latest then
  old = members(ORDER, 'c' .. place)[1]
end
if old then
  local entry_id = string.sub(old, #place + 2)
  local entry = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
  if entry and idempotency_key_of(entry[2]) == idempotency_key then
    return { 'same', entry_id }
  end
end

-- A number in a field of a head, nil if there is none that can be right.
local function count_in(field)
  local number = field and string.match(field, '^%d+$') and tonumber(field)
  return number and number < 1000000 and number or nil
end

local found = hmget(HEAD, wanted)
local head = is_head_of(last, ns_place, found[1], found[2]) and count_in(found[3]) and (not found[4] or count_in(found[4]))
for i, value in ipairs(values) do -- where the deltas that the head has of the channel end: their number, and the entry of the last
  local track = found[5 + i]
  if last and track then
    local count, latest_id = string.match(track, '^(%d+):([^:]*):')
    value.deltas, value.latest_id = count_in(count), latest_id
    head = head and value.deltas
  end
end

-- What the versions of this checkpoint changed from: the head's, or those of another that is in the log still.
local on_head = false
if since then
  local since_entry, stop = counted_at(since, 1)
  local since_check = string.sub(since, stop + 1)
  on_head = head and found[2] == since_entry and found[5] == since_check
  if not on_head then
    local entry = redis.call('XRANGE', LOG, since_entry, since_entry)[1]
    local there = false
    for i = 1, entry and #entry[2] or 0, 2 do
      there = there or (entry[2][i] == 'y' and entry[2][i + 1] == since_check)
    end
    if not there then
      return { 'base' }
    end
  end
end

local left = redis.call('PTTL', LOG)
local only_writes = left >= 0 and not redis.call('ZSCORE', EXPIRIES, 't' .. THREAD)
  and not redis.call('ZRANGEBYLEX', ORDER, '[c', '(d', 'LIMIT', 0, 1)[1]
local views = shared_views(ARGV[10] ~= '', ttl > 0 or state.first or only_writes)

local early = {}
for i, member in ipairs(members(ORDER, 'w' .. place)) do
  local early_id = writes_entry(member, place)
  local entry = redis.call('XRANGE', LOG, early_id, early_id)[1]
  if not entry then
    return { 'gone', early_id }
  end
  early[i] = { early_id, entry[2] }
end
table.sort(early, function(one, other)
  return tonumber(string.match(one[1], '^%d+')) < tonumber(string.match(other[1], '^%d+'))
end)

-- From here on it writes.

announce(state, #events, views, pointer, true)
local entry_ids, extra = {}, {}
for i, event in ipairs(events) do
  entry_ids[i] = append(state, event.content, event.fields)
end
local entry_id = entry_ids[#entry_ids]
for _, value in ipairs(values) do
  value.entry_id = entry_ids[value.event]
  extra[#extra + 1] = 'v' .. counted(ns) .. value.name
  extra[#extra + 1] = value.entry_id .. check_in(value.piece)
end
commit(state, extra, { 0, 'c' .. place .. entry_id })
if only_writes then -- they came first, and their log was to be kept for a day only
  for _, key in ipairs({ LOG, INDEX, ORDER }) do
    redis.call('PERSIST', key)
  end
  left = -1
end
if state.first or only_writes then
  never_expires()
end
if old then
  redis.call('ZREM', ORDER, old)
end
if state.h > 0 then
  for _, hidden in ipairs(members(ORDER, 'h' .. place)) do
    redis.call('ZREM', ORDER, hidden)
    if redis.call('HINCRBY', INDEX, 'h', -1) == 0 then
      redis.call('HDEL', INDEX, 'h')
    end
  end
end

-- Sets a value in the head, behind the keyframe and the deltas that it has of the channel or in their place; false if it cannot follow
-- on them.
local function hold_value(value, set, gone)
  local count = value.deltas or 0
  local piece = plain[value.channel] or value.piece
  if value.base then
    if value.latest_id ~= value.base then
      return false
    end
    set['+' .. (count + 1) .. ':' .. value.channel] = piece
    set['#' .. value.channel] = (count + 1) .. ':' .. value.entry_id .. ':' .. check_in(piece) .. value.token
    return true
  end
  for i = 1, count do
    gone[#gone + 1] = '+' .. i .. ':' .. value.channel
  end
  if string.byte(piece) ~= 69 and #piece - select(2, counted_at(piece, 2)) - 8 >= TRACKED then -- 'E'
    set['=' .. value.channel] = piece -- as it is: it may be long
    set['#' .. value.channel] = '0:' .. value.entry_id .. ':' .. check_in(piece) .. value.token
    return true
  end
  set['=' .. value.channel] = counted(value.token) .. piece
  if value.latest_id then
    gone[#gone + 1] = '#' .. value.channel
  end
  return true
end

-- Sets the versions in the head, behind the changes that it has already (`count`) or in their place; false if they cannot follow on them.
local function hold_versions(count, set, gone)
  count = tonumber(count or 0)
  if check then
    set.y = check
  elseif last and found[5] then
    gone[#gone + 1] = 'y'
  end
  if since then
    set.b, set['s' .. (count + 1)], set['q' .. (count + 1)] = count + 1, versions, seen or ''
    return on_head
  end
  set.s, set.q = versions, seen or ''
  for i = 1, count do
    gone[#gone + 1] = 's' .. i
    gone[#gone + 1] = 'q' .. i
  end
  if count > 0 then
    gone[#gone + 1] = 'b'
  end
  return true
end

-- Makes the head that of this checkpoint; false if a value cannot follow on what it holds.
local function move_head()
  local set, gone = {}, {}
  for _, value in ipairs(values) do
    if not hold_value(value, set, gone) then
      return false
    end
  end
  local fields = { 'id', id, 'at', entry_id, 'p', parent, 'e', envelope, 'w', #early }
  if not hold_versions(last and found[4], set, gone) then
    return false
  end
  for name, value in pairs(set) do
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
  for i, writes in ipairs(early) do
    fields[#fields + 1] = '!' .. i
    fields[#fields + 1] = packed_writes(writes[2])
  end
  if last then
    for i = 1, tonumber(found[3]) do -- the parent's pending writes
      gone[#gone + 1] = '!' .. i
    end
    in_chunks('HDEL', HEAD, gone)
  elseif found[1] or redis.call('EXISTS', HEAD) == 1 then
    redis.call('DEL', HEAD)
  end
  in_chunks('HSET', HEAD, fields, 2)
  return true
end

local follows = head and found[1] == parent and latest and not old
if follows or not last then
  if not move_head() then
    redis.call('DEL', HEAD)
  end
elseif latest or old or #values > 0 or not head then -- a value that comes late may be one that the head lacks
  redis.call('DEL', HEAD)
end
keep_alive(ttl, left, HEAD == ROOT and { HEAD } or { HEAD, ROOT }, HEAD ~= ROOT)
entry_ids[#entry_ids + 1] = state.d
return { 'ok', unpack(entry_ids) }
