-- Prelude, after pending_writes.lua: moves a namespace's head on to the next checkpoint.
--
-- projections/values/stored.py describes the fields of a head. Its bytes are those of its values and writes as they stand in it.
-- A value is a table: channel, version_key, plain (its piece, not compressed), entry_id, and base_id, the entry that a delta was
-- made against. `read_head` adds where the head's chain of the channel ends: deltas (how many), tail_id (entry of the last piece).

local SMALLEST = 128 -- bytes of the smallest value that deltas are made against, as in projections/values/pieces.py

-- A number in a field of a head; nil if there is none, or an absurd one.
local function count_in(field)
  local number = whole_number(field)
  return number and number < 1000000 and number or nil
end

-- A namespace's head before a checkpoint brings `values`; `last` is the order member of the newest checkpoint.
-- `is_current`: whether it is the head of that checkpoint, and its numbers are sound.
local function read_head(key, ns_sort_key, last, values)
  local names = { 'id', 'at', 'w', 'b', 'y', 'vb', 'wb' }
  for i, value in ipairs(values) do
    names[7 + i] = '#' .. value.channel
  end
  local found = hmget(key, names)
  local head = { key = key, id = found[1], entry_id = found[2], writes = count_in(found[3]), changes = 0, checksum = found[5] }
  head.bytes = whole_number(found[7]) and whole_number(found[6])
  if found[4] then
    head.changes = count_in(found[4])
  end
  head.is_current = is_head_of(last, ns_sort_key, head.id, head.entry_id) and head.writes and head.changes and head.bytes
  for i, value in ipairs(values) do
    local track = found[7 + i]
    if last and track then
      local count, tail_id = string.match(track, '^(%d+):([^:]*):')
      value.deltas, value.tail_id = count_in(count), tail_id
      head.is_current = head.is_current and value.deltas
    end
  end
  return head
end

-- The field of a head that says where the chain of a channel ends.
local function chain_end(value, count, checksum)
  return count .. ':' .. value.entry_id .. ':' .. checksum .. value.version_key
end

-- Puts a value into `set`, after the chain that the head has of the channel or in its place, and fields that this replaces into
-- `gone`. Returns how many bytes more the head then has; false if a delta does not continue the chain.
local function set_value(head, value, set, gone)
  local channel, piece, count = value.channel, value.plain, value.deltas or 0
  local checksum, stop = check_in(piece)
  if value.base_id then
    set['+' .. (count + 1) .. ':' .. channel] = piece
    set['#' .. channel] = chain_end(value, count + 1, checksum)
    return value.tail_id == value.base_id and #piece
  end
  local before = head and redis.call('HSTRLEN', head.key, '=' .. channel) or 0
  for i = 1, count do
    local name = '+' .. i .. ':' .. channel
    gone[#gone + 1] = name
    before = before + (head and redis.call('HSTRLEN', head.key, name) or 0)
  end
  if stop and #piece - stop >= SMALLEST then
    set['=' .. channel] = piece -- without its version key: a long piece is not copied
    set['#' .. channel] = chain_end(value, 0, checksum)
    return #piece - before
  end
  set['=' .. channel] = counted(value.version_key) .. piece
  if value.tail_id then
    gone[#gone + 1] = '#' .. channel
  end
  return #set['=' .. channel] - before
end

-- Puts a checkpoint's versions (its fields `s`, `q`, `y`, `b`) into `set`, after the changes that the head has or in their place.
local function set_versions(head, fields, set, gone)
  local versions, seen, count = fields.s, fields.q or '', head.changes
  if fields.y then
    set.y = fields.y
  elseif head.checksum then
    gone[#gone + 1] = 'y'
  end
  if fields.b then
    set.b, set['s' .. (count + 1)], set['q' .. (count + 1)] = count + 1, versions, seen
    return
  end
  set.s, set.q = versions, seen
  for i = 1, count do
    gone[#gone + 1] = 's' .. i
    gone[#gone + 1] = 'q' .. i
  end
  if count > 0 then
    gone[#gone + 1] = 'b'
  end
end

-- Makes the head that of a checkpoint: {id, entry_id, parent, fields, values, early}, `early` being the fields of entries of writes
-- that came before it. `head` is the parent's, nil or false to make a new one. False, and nothing written, if a value does not continue it,
-- or if it would have more than `most` bytes.
local function move_head(key, head, checkpoint, most)
  local set, gone, bytes, write_bytes = {}, {}, head and head.bytes or 0, 0
  for _, value in ipairs(checkpoint.values) do
    local more = set_value(head, value, set, gone)
    if not more then
      return false
    end
    bytes = bytes + more
  end
  set_versions(head or { changes = 0 }, checkpoint.fields, set, gone)
  local fields = {
    'id', checkpoint.id, 'at', checkpoint.entry_id, 'p', checkpoint.parent, 'e', checkpoint.fields.e, 'w', #checkpoint.early,
  }
  for name, content in pairs(set) do
    fields[#fields + 1] = name
    fields[#fields + 1] = content
  end
  for i, writes in ipairs(checkpoint.early) do
    local packed = packed_writes(writes)
    fields[#fields + 1] = '!' .. i
    fields[#fields + 1] = packed
    write_bytes = write_bytes + #packed
  end
  if bytes + write_bytes > most then
    return false
  end
  for _, part in ipairs({ 'vb', bytes, 'wb', write_bytes }) do
    fields[#fields + 1] = part
  end
  if head then
    for i = 1, head.writes do
      gone[#gone + 1] = '!' .. i
    end
    in_chunks('HDEL', key, gone)
  else
    redis.call('UNLINK', key)
  end
  in_chunks('HSET', key, fields, 2)
  return true
end
