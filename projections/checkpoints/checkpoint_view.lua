-- Prelude: checkpoints as the log has them, found through the index.
--
-- A view is {envelope, versions, parent, values, writes, sort key}:
--   versions: the number of its versions among those of the reply;
--   values: for each channel of these, the number of its piece among those of the reply, 0 where none was stored;
--   writes: for each entry of writes its id, task, task path, then the field name and value of each write; if one script does not
--     read them all, the last is {'', arguments of read_writes.lua for the others};
--   sort key: the checkpoint's order member without its first letter.
-- The pieces of a reply are a flat list: piece, number of the piece that it is a delta against (0: no delta), entry id.
-- The versions of a reply are a flat list: fields `s`, `q` and `y` of an entry, number of the versions that they change (0: they are whole).
-- A part that several checkpoints share is sent once.
-- A function that cannot read a checkpoint returns nil and the reply: {'gone', entry id} if the log lacks that entry; {'deep', entry id}
-- if its versions or a value in it are changes of more entries than this package builds on.

-- The texts in a CBOR list of texts, such as field `s` of an entry, after a 0.
local function texts(bytes)
  local out, at = { 0 }, 1
  local function head()
    local first = string.byte(bytes, at)
    local size = first % 32
    at = at + 1
    if size >= 24 then
      local width = 2 ^ (size - 24)
      size = 0
      for _ = 1, width do
        size = size * 256 + string.byte(bytes, at)
        at = at + 1
      end
    end
    return size
  end
  for i = 2, head() + 1 do
    local size = head()
    out[i] = string.sub(bytes, at, at + size - 1)
    at = at + size
  end
  return out
end

local DEEPEST = 100 -- entries that versions are made from, as in projections/values/pieces.py
local LONGEST = 4000 -- pieces that a value is made from; writers stay below half of that

-- The state of one call's reads: entries by id, the reply's pieces and versions, and the bytes read from the log, as its bounds count them.
local function reader()
  return { entries = {}, pieces = {}, bases = {}, ids = {}, found = {}, versions = {}, changes = {}, bytes = 0 }
end

-- The pieces of a reply.
local function pieces_of(read)
  local out = {}
  for i, piece in ipairs(read.pieces) do
    out[3 * i - 2], out[3 * i - 1], out[3 * i] = piece, read.bases[i], read.ids[i]
  end
  return out
end

-- `fields_at`, once for each entry.
local function entry_at(read, entry_id)
  local fields = read.entries[entry_id]
  if fields == nil then
    fields = fields_at(entry_id) or false
    read.bytes = read.bytes + (fields and weight_of(fields) or 0)
    read.entries[entry_id] = fields
  end
  return fields or nil
end

-- The versions in a checkpoint's entry, once for each entry: {their number in the reply or 0, channel, version key, ...}, and `base`, the
-- entry whose versions they change, nil if they are whole.
local function change_at(read, entry_id)
  local entry = entry_at(read, entry_id)
  local own, since = entry and field_of(entry, 's'), entry and field_of(entry, 'b')
  if not own then
    return nil, { 'gone', entry_id }
  end
  local change = texts(own)
  if since then
    local size, from = string.match(since, '^(%d+):()')
    local base = size and string.sub(since, from, from + size - 1)
    if not base or not is_before(base, entry_id) then
      return nil, { 'gone', entry_id }
    end
    change.base = base
  end
  read.changes[entry_id] = change
  return change
end

-- What a checkpoint's versions are made from, as `change_at` has it, numbered: those of its own entry first, whole ones last.
local function changes_at(read, entry_id)
  local chain, ids, id = {}, {}, entry_id
  repeat
    if #chain == DEEPEST then
      return nil, { 'deep', entry_id }
    end
    local change, why = read.changes[id], nil
    if not change then
      change, why = change_at(read, id)
    end
    if not change then
      return nil, why
    end
    chain[#chain + 1], ids[#chain + 1], id = change, id, change.base
  until not id
  local flat, number = read.versions, 0
  for i = #chain, 1, -1 do
    local change = chain[i]
    if change[1] == 0 then
      local entry, at = read.entries[ids[i]], #flat
      flat[at + 1], flat[at + 2], flat[at + 3] = field_of(entry, 's'), field_of(entry, 'q') or '', field_of(entry, 'y') or ''
      flat[at + 4] = number
      change[1] = at / 4 + 1
    end
    number = change[1]
  end
  return chain
end

-- The versions of a checkpoint's entry: {their number in the reply, channel, version key, ...}. They are copied once, not for each of the
-- entries that they are made from.
local function versions_at(read, entry_id)
  local chain, why = changes_at(read, entry_id)
  if not chain then
    return nil, why
  end
  local whole, count = chain[#chain], 0
  local out, position = whole, whole.position
  if #chain > 1 then
    out = { chain[1][1] }
    if not position then
      position = {}
      for i = 2, #whole, 2 do
        position[whole[i]] = i
      end
      whole.position = position
    end
    for i = 2, #whole do
      out[i] = whole[i]
    end
    local added = {}
    for i = #chain - 1, 1, -1 do
      local changes = chain[i]
      for j = 2, #changes, 2 do
        local channel = changes[j]
        local at = position[channel] or added[channel]
        if not at then
          at = #out + 1
          added[channel] = at
        end
        out[at], out[at + 1] = channel, changes[j + 1]
      end
      count = count + #changes
    end
  end
  read.bytes = read.bytes + PART / 2 * (#out + count)
  return out
end

-- The number of the piece of a channel's version, 0 if none was ever stored. A piece brings those that it is made of into the reply.
local function piece_at(read, version_key, channel, entry_id)
  if not entry_id then
    return 0
  end
  local pieces, ids, names, count, base = {}, {}, {}, 0, nil
  local found, before = read.found, nil -- a base lies in an earlier entry; `before` (ms) ends the walk where a damaged log has a circle
  while entry_id do
    local ms = tonumber(string.match(entry_id, '^(%d+)%-0$'))
    if not ms or (before and ms >= before) then
      return nil, { 'gone', ids[count] or entry_id }
    end
    before = ms
    if count == LONGEST then
      return nil, { 'deep', ids[1] }
    end
    local name = '=' .. #version_key .. ':' .. version_key .. channel
    base = found[entry_id .. name]
    if base then
      break
    end
    local entry = entry_at(read, entry_id)
    local piece = entry and field_of(entry, name)
    if not piece then
      return nil, { 'gone', entry_id }
    end
    count = count + 1
    pieces[count], ids[count], names[count] = piece, entry_id, name
    entry_id, version_key = base_of(piece)
  end
  base = base or 0
  local number = #read.pieces
  for i = count, 1, -1 do
    number = number + 1
    read.pieces[number], read.bases[number], read.ids[number] = pieces[i], base, ids[i]
    found[ids[i] .. names[i]] = number
    base = number
  end
  return base
end

-- The numbers of the pieces of versions that `versions_at` returned.
local function values_of(read, ns, versions)
  local fields, prefix = {}, 'v' .. counted(ns)
  for i = 2, #versions, 2 do
    fields[#fields + 1] = prefix .. counted(versions[i + 1]) .. versions[i]
  end
  read.bytes = read.bytes + PART * #fields
  local numbers = {}
  if #fields == 0 then
    return numbers
  end
  for i, value in ipairs(hmget(INDEX, fields)) do
    local why
    numbers[i], why = piece_at(read, versions[2 * i + 1], versions[2 * i], value and string.sub(value, 1, -9))
    if why then
      return nil, why
    end
  end
  return numbers
end

-- The writes in an entry: its id, task, task path, then the field name and value of each write.
local function writes_at(read, entry_id)
  local entry = entry_at(read, entry_id)
  if not entry then
    return nil, { 'gone', entry_id }
  end
  local writes = { entry_id, field_of(entry, 't'), field_of(entry, 'a') }
  for i = 1, #entry, 2 do
    if string.byte(entry[i]) == 33 then -- '!'
      writes[#writes + 1] = entry[i]
      writes[#writes + 1] = entry[i + 1]
    end
  end
  return writes
end

-- The writes of the checkpoint that an order member names, by entry, up to the log's entry `last`. They are those after the order member
-- `after` (nil: the first), as many as a script reads.
local function writes_of(read, checkpoint, last, after)
  local _, sort_key = split_member(checkpoint)
  local from, to, out = after and '(' .. after or '[w' .. sort_key, '(w' .. sort_key .. '\255', {}
  local found, full = redis.call('ZRANGEBYLEX', ORDER, from, to, 'LIMIT', 0, WRITES + 1), read.bytes + WRITES_BYTES
  for i, member in ipairs(found) do
    local entry_id = writes_entry(member, sort_key)
    if not (after and is_before(last, entry_id)) then
      local writes, why = writes_at(read, entry_id)
      if why then
        return nil, why
      end
      out[#out + 1] = writes
    end
    if i < #found and (i == WRITES or read.bytes > full) then
      out[#out + 1] = { '', last, checkpoint, member }
      break
    end
  end
  return out
end

-- The view of the checkpoint that an order member names; `last` is the log's last entry.
local function view(read, member, last)
  local ns, _, entry_id = split_member(member)
  local entry = entry_at(read, entry_id)
  local envelope = entry and field_of(entry, 'e')
  if not envelope then
    return nil, { 'gone', entry_id }
  end
  local versions, numbers, writes, why
  versions, why = versions_at(read, entry_id)
  if versions then
    numbers, why = values_of(read, ns, versions)
  end
  if numbers then
    writes, why = writes_of(read, member, last)
  end
  if not writes then
    return nil, why
  end
  return { envelope, versions[1], field_of(entry, 'p') or '', numbers, writes, string.sub(member, 2) }
end
