-- Prelude: checkpoints as they lie in the log, found through the index.
--
-- A view is {envelope, versions, parent, values, writes, place, entries}: `values` has for each channel of `versions` the position of its
-- piece among all pieces of the reply (0: none stored); `writes` is a flat list task, path, field name, value, those of one task in log order; `place` is the
-- checkpoint's order member without its first letter; `entries` the number of entries that the writes lie in. A piece that several checkpoints share is sent once.

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

-- What is read in one call: entries by id, pieces, and how many bytes of the log that took.
local function reader()
  return { entries = {}, pieces = {}, found = {}, bytes = 0 }
end

-- Fields of an entry by name, or nil if the log does not have it.
local function entry_at(read, entry_id)
  local fields = read.entries[entry_id]
  if fields == nil then
    local entry = redis.call('XRANGE', LOG, entry_id, entry_id)[1]
    fields = false
    if entry then
      fields = { flat = entry[2] }
      for i = 1, #entry[2], 2 do
        fields[entry[2][i]] = entry[2][i + 1]
        read.bytes = read.bytes + #entry[2][i + 1]
      end
    end
    read.entries[entry_id] = fields
  end
  return fields or nil
end

-- Position of the piece of a channel's version, 0 if none was ever stored, nil if it is gone from the log.
local function piece_at(read, ns, name, entry_id)
  if not entry_id then
    return 0
  end
  local key = entry_id .. name
  local position = read.found[key]
  if not position then
    local entry = entry_at(read, entry_id)
    local piece = entry and entry['=' .. name]
    if not piece then
      return nil
    end
    position = #read.pieces + 1
    read.pieces[position] = piece
    read.found[key] = position
  end
  return position
end

local function values_of(read, ns, versions)
  local names = {}
  for i = 1, #versions, 2 do
    names[#names + 1] = counted(versions[i + 1]) .. versions[i]
  end
  local positions = {}
  for first = 1, #names, CHUNK do
    local fields = {}
    for i = first, math.min(first + CHUNK - 1, #names) do
      fields[#fields + 1] = 'v' .. counted(ns) .. names[i]
    end
    for i, entry_id in ipairs(redis.call('HMGET', INDEX, unpack(fields))) do
      local name = names[first + i - 1]
      local position = piece_at(read, ns, name, entry_id)
      if not position then
        return nil, entry_id
      end
      positions[first + i - 1] = position
    end
  end
  return positions
end

local function writes_of(read, place)
  local writes, entries = {}, 0
  for _, member in ipairs(members(ORDER, 'w' .. place)) do
    local entry_id = writes_entry(member, place)
    entries = entries + 1
    local entry = entry_at(read, entry_id)
    if not entry then
      return nil, entry_id
    end
    for i = 1, #entry.flat, 2 do
      if string.byte(entry.flat[i]) == 33 then -- '!'
        writes[#writes + 1] = entry.t
        writes[#writes + 1] = entry.a
        writes[#writes + 1] = entry.flat[i]
        writes[#writes + 1] = entry.flat[i + 1]
      end
    end
  end
  return writes, nil, entries
end

-- The checkpoint of an order member; with its values and writes if `full`. Nil and the entry id if an entry is gone.
local function view(read, member, full)
  local ns, place, entry_id = split_member(member)
  local entry = entry_at(read, entry_id)
  if not entry or not entry.e or not entry.s then
    return nil, entry_id
  end
  local out = { entry.e, entry.s, entry.p or '', {}, {}, string.sub(member, 2), 0 }
  if full then
    local why
    out[4], why = values_of(read, ns, texts(entry.s))
    if out[4] then
      out[5], why, out[7] = writes_of(read, place)
    end
    if why then
      return nil, why
    end
  end
  return out
end
