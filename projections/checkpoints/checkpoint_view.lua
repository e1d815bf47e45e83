-- Prelude: checkpoints as the log has them, found through the index.
--
-- A view is {envelope, versions, parent, values, writes, sort key}:
--   versions: the number of its versions among those of the reply;
--   values: for each channel of these, the number of its piece among those of the reply, 0 where none was stored;
--   writes: for each entry of writes its id, task, task path, then the field name and value of each write;
--   sort key: the checkpoint's order member without its first letter.
-- The pieces of a reply are a flat list: piece, number of the piece that it is a delta against (0: no delta), entry id.
-- The versions of a reply are a flat list: fields `s`, `q` and `y` of an entry, number of the versions that they change (0: they are whole).
-- A part that several checkpoints share is sent once.
-- A function that misses an entry in the log returns nil and the entry id.

-- The texts in a CBOR list of texts, such as field `s` of an entry.
local function texts(bytes)
  local out, at = {}, 1
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
  for i = 1, head() do
    local size = head()
    out[i] = string.sub(bytes, at, at + size - 1)
    at = at + size
  end
  return out
end

local PART = 400 -- bytes that a field, a version or a value counts for beside its own, since the work on many short ones takes time, too

-- The state of one call's reads: entries by id, the reply's pieces and versions, and the bytes read from the log, as its bounds count them.
local function reader()
  return { entries = {}, pieces = {}, bases = {}, ids = {}, found = {}, versions = {}, vectors = {}, bytes = 0 }
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
    local bytes = fields and PART / 2 * #fields or 0
    for i = 2, fields and #fields or 0, 2 do
      bytes = bytes + #fields[i]
    end
    read.bytes = read.bytes + bytes
    read.entries[entry_id] = fields
  end
  return fields or nil
end

local DEEPEST = 100 -- changes of versions since whole ones, as in projections/values/pieces.py

-- The versions of a checkpoint's entry: {their number in the reply, channel, version key, ...}. They change those of its base, and so
-- on; `changes` is the number of changes so far. With more than a writer makes, none are read, since each is a copy of all versions.
local function versions_at(read, entry_id, changes)
  local known = read.vectors[entry_id]
  if known then
    return known
  end
  local entry = entry_at(read, entry_id)
  local own, since = entry and field_of(entry, 's'), entry and field_of(entry, 'b')
  if not own then
    return nil, entry_id
  end
  local out, base, position = { 0 }, 0, {}
  if since then
    local size, from = string.match(since, '^(%d+):()')
    if not size then
      return nil, entry_id
    end
    local base_id = string.sub(since, from, from + size - 1)
    local whole, gone = nil, entry_id
    local count = (changes or 0) + 1
    if count <= DEEPEST and is_before(base_id, entry_id) then
      whole, gone = versions_at(read, base_id, count)
    end
    if not whole then
      return nil, gone
    end
    base = whole[1]
    for i = 2, #whole, 2 do
      position[whole[i]], out[i], out[i + 1] = i, whole[i], whole[i + 1]
    end
  end
  local changed = texts(own)
  for i = 1, #changed, 2 do
    local at = position[changed[i]] or #out + 1
    out[at], out[at + 1] = changed[i], changed[i + 1]
  end
  read.bytes = read.bytes + PART / 2 * #out
  local flat = read.versions
  flat[#flat + 1], flat[#flat + 2], flat[#flat + 3] = own, field_of(entry, 'q') or '', field_of(entry, 'y') or ''
  flat[#flat + 1] = base
  out[1] = #flat / 4
  read.vectors[entry_id] = out
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
      return nil, ids[count] or entry_id
    end
    before = ms
    local name = '=' .. #version_key .. ':' .. version_key .. channel
    base = found[entry_id .. name]
    if base then
      break
    end
    local entry = entry_at(read, entry_id)
    local piece = entry and field_of(entry, name)
    if not piece then
      return nil, entry_id
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
    local gone
    numbers[i], gone = piece_at(read, versions[2 * i + 1], versions[2 * i], value and string.sub(value, 1, -9))
    if gone then
      return nil, gone
    end
  end
  return numbers
end

-- The writes in an entry: its id, task, task path, then the field name and value of each write.
local function writes_at(read, entry_id)
  local entry = entry_at(read, entry_id)
  if not entry then
    return nil, entry_id
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

-- The writes of a checkpoint, by entry.
local function writes_of(read, sort_key)
  local out = {}
  for i, member in ipairs(members(ORDER, 'w' .. sort_key)) do
    local gone
    out[i], gone = writes_at(read, writes_entry(member, sort_key))
    if gone then
      return nil, gone
    end
  end
  return out
end

-- The view of the checkpoint that an order member names.
local function view(read, member)
  local ns, sort_key, entry_id = split_member(member)
  local entry = entry_at(read, entry_id)
  local envelope = entry and field_of(entry, 'e')
  if not envelope then
    return nil, entry_id
  end
  local versions, numbers, writes, gone
  versions, gone = versions_at(read, entry_id)
  if versions then
    numbers, gone = values_of(read, ns, versions)
  end
  if numbers then
    writes, gone = writes_of(read, sort_key)
  end
  if not writes then
    return nil, gone
  end
  return { envelope, versions[1], field_of(entry, 'p') or '', numbers, writes, string.sub(member, 2) }
end
