-- Appends a checkpoint to the log and the feed, and folds it into index, order and head.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/pending_writes, projections/checkpoints/event_arguments, projections/checkpoints/head_upkeep.
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 ttl in ms, 0 for none; 3 namespace; 4 checkpoint id; 5 parent id or ''; 6 namespace's sort key;
--   7 checkpoint's sort key; for the feed: 8 source, 9 step, 10 run or '', 11 channels and 12 nodes, counted; 13 most bytes of a
--   head; 14 digest that the writer had seen, and 15 beginning of its seals, '' for none; 16 number of events, then each as
--   event_arguments.lua says, values beyond a thousand first, the checkpoint last;
--   then the channels whose pieces are compressed, each with the piece before compression, for the head; '' if the head would be too
--   large, and is to be deleted.
-- Reply: {'ok', entry id of each event, digest of the last}; {'same', entry id} if the log has the checkpoint from this very call;
--   {'base'} if a delta, or the versions, were made against an entry that the log does not have;
--   {'unseen', ...} as event_arguments.lua says; {'gone', entry id} if the log lacks an entry; {'ended'} if runs of an earlier thread
--   are left, see `forget_runs.lua`; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: writes all of it, or, with any other reply than 'ok', nothing.

local HEAD, ROOT = KEYS[8], KEYS[9]
local ttl, ns, id, parent, ns_sort_key, sort_key = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local source, step, run, channels, nodes = ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local most_bytes = tonumber(ARGV[13])
local events, after_events = events_at(17, tonumber(ARGV[16]))
local plain = {}
for i = after_events, #ARGV, 2 do
  plain[ARGV[i]] = ARGV[i + 1]
end

-- The part of `bytes` after its length that begins at `from`, and where it ends.
local function counted_at(bytes, from)
  local size, start = string.match(bytes, '^(%d+):()', from)
  local stop = start + tonumber(size) - 1
  return string.sub(bytes, start, stop), stop
end

local is_too_large = false -- for a head
local fields, values, bases, expected = {}, {}, {}, {} -- index fields of the bases of deltas, and the values expected there

local function add_value(name, piece, event)
  local version_key, stop = counted_at(name, 2)
  local channel = string.sub(name, stop + 1)
  local base_id, base_key, start = base_of(piece)
  if base_id then
    bases[#bases + 1] = 'v' .. counted(ns) .. counted(base_key) .. channel
    expected[#bases] = base_id .. string.sub(piece, start, start + 7)
  end
  is_too_large = is_too_large or plain[channel] == ''
  values[#values + 1] = {
    name = string.sub(name, 2),
    channel = channel,
    version_key = version_key,
    piece = piece,
    plain = plain[channel] or piece,
    event = event,
    base_id = base_id,
  }
end

for number, event in ipairs(events) do
  fields = {} -- in the end those of the checkpoint, by name
  for i = 1, #event.fields, 2 do
    local name, content = event.fields[i], event.fields[i + 1]
    if string.byte(name) == 61 then -- '='
      add_value(name, content, number)
    else
      fields[name] = content
    end
  end
end

local last = newest(ORDER, ns_sort_key)
local state, why = open(bases, last)
if not state then
  return { why }
end
local strange = unseen(state, ARGV[14], ARGV[15])
if strange then
  return strange
end
for i, value in ipairs(expected) do
  if state.values[OPENED + i] ~= value then
    return { 'base' }
  end
end

-- Whether this checkpoint's id is greater than the newest one's. It compares bytes, since `<` would depend on the server's locale.
local function is_later()
  for i = #ns_sort_key + 1, #sort_key do
    local own, newest_has = string.byte(sort_key, i), string.byte(last, i + 1)
    if own ~= newest_has then
      return own > newest_has
    end
  end
  return false
end

local replaced = last and string.sub(last, 2, #sort_key + 1) == sort_key and last
local is_latest = not last or replaced or is_later()
if not is_latest then
  replaced = members(ORDER, 'c' .. sort_key)[1]
end
if replaced then
  local entry_id = string.sub(replaced, #sort_key + 2)
  local entry = fields_at(entry_id)
  if entry and field_of(entry, 'r') == fields.r then
    return { 'same', entry_id }
  end
end

local head = read_head(HEAD, ns_sort_key, last, values)
local continues = head.is_current and head.id == parent and is_latest and not replaced
if fields.b then
  local base_id, stop = counted_at(fields.b, 1)
  local checksum = string.sub(fields.b, stop + 1)
  local on_head = head.is_current and head.entry_id == base_id and head.checksum == checksum
  local entry = not on_head and fields_at(base_id)
  if not on_head and not (entry and field_of(entry, 'y') == checksum) then
    return { 'base' }
  end
  continues = continues and on_head
end

local left = redis.call('PTTL', LOG)
local only_writes = left >= 0 and not redis.call('ZSCORE', EXPIRIES, 't' .. THREAD)
  and not redis.call('ZRANGEBYLEX', ORDER, '[c', '(d', 'LIMIT', 0, 1)[1]
local views = shared_views(run ~= '', ttl > 0 or state.first or only_writes)

if state.first and has_old_runs() then
  return { 'ended' }
end

local early, early_bytes = {}, 0
for i, member in ipairs(redis.call('ZRANGEBYLEX', ORDER, '[w' .. sort_key, '(w' .. sort_key .. '\255', 'LIMIT', 0, WRITES + 1)) do
  early[i] = writes_entry(member, sort_key)
end
if #early > WRITES then -- too many for a script
  early, is_too_large = {}, true
end
table.sort(early, is_before)
for i, entry_id in ipairs(early) do
  early[i] = fields_at(entry_id)
  if not early[i] then
    return { 'gone', entry_id }
  end
  early_bytes = early_bytes + weight_of(early[i])
  if early_bytes > WRITES_BYTES then
    is_too_large = true
    break
  end
end

-- From here on it writes.

announce(state, #events, views, { 'checkpoint', ns, id, source, step, run, channels, nodes }, true)
local reply, index_fields = { 'ok' }, {}
for _, event in ipairs(events) do
  reply[#reply + 1] = append(state, event.content, event.fields)
end
local entry_id = state.l
for _, value in ipairs(values) do
  value.entry_id = reply[1 + value.event]
  index_fields[#index_fields + 1] = 'v' .. counted(ns) .. value.name
  index_fields[#index_fields + 1] = value.entry_id .. check_in(value.piece)
end
commit(state, index_fields, { 0, 'c' .. sort_key .. entry_id })
if only_writes then -- a log of early writes was to be kept for a day
  for _, key in ipairs({ LOG, INDEX, ORDER }) do
    redis.call('PERSIST', key)
  end
  left = -1
end
if state.first or only_writes then
  never_expires()
end
if replaced then
  redis.call('ZREM', ORDER, replaced)
end
if state.h > 0 then
  for _, hidden in ipairs(members(ORDER, 'h' .. sort_key)) do
    redis.call('ZREM', ORDER, hidden)
    if redis.call('HINCRBY', INDEX, 'h', -1) == 0 then
      redis.call('HDEL', INDEX, 'h')
    end
  end
end

local checkpoint = { id = id, entry_id = entry_id, parent = parent, fields = fields, values = values, early = early }
local is_head_right
if not is_too_large and (continues or (not last and not fields.b)) then
  is_head_right = move_head(HEAD, continues and head, checkpoint, most_bytes)
else
  is_head_right = head.is_current and not is_latest and not replaced and #values == 0 -- a late value may be one that the head lacks
end
if not is_head_right then
  redis.call('UNLINK', HEAD)
end
keep_alive(ttl, left, HEAD == ROOT and { HEAD } or { HEAD, ROOT }, HEAD ~= ROOT)
reply[#reply + 1] = state.d
return reply
