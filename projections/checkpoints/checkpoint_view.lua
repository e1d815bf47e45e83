-- Prelude: checkpoints as they lie in the log, found through the index.
--
-- A view is {envelope, versions, parent, values, writes, place}: `versions` is the number of its versions among all of the reply,
-- `values` has for each of their channels the number of its piece among all pieces of the reply (0: none stored); `writes` for each entry of writes its id, task, task path, then field name and value of each;
-- `place` is the checkpoint's order member without its first letter. The pieces of a reply are a flat list: piece, number of the piece that
-- it is a delta against (0: it is none), entry id. Its versions are a flat list too: fields `s`, `q` and `y` of an entry, number of those that they
-- changed from (0: they are whole). What several checkpoints share is sent once.

-- The texts in a CBOR list of texts, as field `s` of an entry has it.
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

-- What is read in one call: entries by id; pieces, the numbers of those they need, their entries; and how many bytes of the log that
-- took.
local function reader()
  return { entries = {}, pieces = {}, bases = {}, ids = {}, found = {}, versions = {}, vectors = {}, bytes = 0 }
end

-- The pieces that were read, as a reply has them.
local function pieces_of(read)
  local out = {}
  for i, piece in ipairs(read.pieces) do
    out[3 * i - 2], out[3 * i - 1], out[3 * i] = piece, read.bases[i], read.ids[i]
  end
  return out
end

-- The fields of an entry, names and values in turn, or nil if the log does not have it.
local function entry_at(read, entry_id)
  local fields = read.entries[entry_id]
  if fields == nil then
    local entry = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
    fields = entry and entry[2] or false
    local bytes = 0
    for i = 2, fields and #fields or 0, 2 do
      bytes = bytes + #fields[i]
    end
    read.bytes = read.bytes + bytes
    read.entries[entry_id] = fields
  end
  return fields or nil
end

-- The value of a field of an entry, nil if it has none.
local function field_of(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then
      return fields[i + 1]
    end
  end
end

-- Versions of an entry's checkpoint: {number among those of the reply, channel, token, ...}; nil and an entry id if what they changed from is
-- gone from the log.
local function versions_at(read, entry_id)
  local known = read.vectors[entry_id]
  if known then
    return known
  end
  local entry = entry_at(read, entry_id)
  local own, since = entry and field_of(entry, 's'), entry and field_of(entry, 'b')
  if not own then
    return nil, entry_id
  end
  local out, base, where = { 0 }, 0, {}
  if since then
    local size, from = string.match(since, '^(%d+):()')
    if not size then
      return nil, entry_id
    end
    local base_id = string.sub(since, from, from + size - 1)
    local whole, gone = nil, entry_id
    if is_before(base_id, entry_id) then
      whole, gone = versions_at(read, base_id)
    end
    if not whole then
      return nil, gone
    end
    base = whole[1]
    for i = 2, #whole, 2 do
      where[whole[i]], out[i], out[i + 1] = i, whole[i], whole[i + 1]
    end
  end
  local changes = texts(own)
  for i = 1, #changes, 2 do
    local at = where[changes[i]] or #out + 1
    out[at], out[at + 1] = changes[i], changes[i + 1]
  end
  local flat = read.versions
  flat[#flat + 1], flat[#flat + 2], flat[#flat + 3] = own, field_of(entry, 'q') or '', field_of(entry, 'y') or ''
  flat[#flat + 1] = base
  out[1] = #flat / 4
  read.vectors[entry_id] = out
  return out
end

-- Number of the piece of a channel's version, 0 if none was ever stored, nil and an entry id if it, or one that it needs, is gone from
-- the log.
local function piece_at(read, token, channel, entry_id)
  if not entry_id then
    return 0
  end
  local pieces, ids, names, count, base = {}, {}, {}, 0, nil
  local found, before = read.found, nil -- `before`: ms that the next entry's id has to be below
  while entry_id do
    local ms = tonumber(string.match(entry_id, '^(%d+)%-0$'))
    if not ms or (before and ms >= before) then -- damaged
      return nil, ids[count] or entry_id
    end
    before = ms
    local name = '=' .. #token .. ':' .. token .. channel
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
    entry_id, token = base_of(piece)
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

-- Numbers of the pieces of versions, as `versions_at` has them; nil and an entry id if one is gone.
local function values_of(read, ns, versions)
  local fields, prefix = {}, 'v' .. counted(ns)
  for i = 2, #versions, 2 do
    fields[#fields + 1] = prefix .. counted(versions[i + 1]) .. versions[i]
  end
  local numbers = {}
  if #fields == 0 then
    return numbers
  end
  for i, at in ipairs(hmget(INDEX, fields)) do
    local gone
    numbers[i], gone = piece_at(read, versions[2 * i + 1], versions[2 * i], at and string.sub(at, 1, -9))
    if gone then
      return nil, gone
    end
  end
  return numbers
end

-- The entries of writes of a checkpoint; nil and an entry id if one is gone.
local function writes_of(read, place)
  local out = {}
  for _, member in ipairs(members(ORDER, 'w' .. place)) do
    local entry_id = writes_entry(member, place)
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
    out[#out + 1] = writes
  end
  return out
end

-- The checkpoint of an order member. Nil and the entry id if an entry is gone.
local function view(read, member)
  local ns, place, entry_id = split_member(member)
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
    writes, gone = writes_of(read, place)
  end
  if not writes then
    return nil, gone
  end
  return { envelope, versions[1], field_of(entry, 'p') or '', numbers, writes, string.sub(member, 2) }
end
