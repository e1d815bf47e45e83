-- Prelude: the names of `eventlog/keys.py`, as the scripts need them. No keys, no calls.

-- A part behind its length, so that what follows it cannot be mistaken for it.
local function counted(part)
  return #part .. ':' .. part
end

-- A part in an encoding that ends itself and sorts as the part does.
local function ordered(part)
  return string.gsub(part, '%z', '\0\255') .. '\0'
end

-- Position of the end of the ordered part that begins at `from`.
local function part_end(bytes, from)
  local zero = string.find(bytes, '\0', from, true)
  while string.byte(bytes, zero + 1) == 255 do
    zero = string.find(bytes, '\0', zero + 2, true)
  end
  return zero
end

-- Namespace, checkpoint's place and entry id of an order member.
local function split_member(member)
  local ns_end = part_end(member, 2)
  local id_end = part_end(member, ns_end + 1)
  local ns = string.gsub(string.sub(member, 2, ns_end - 1), '%z\255', '\0')
  return ns, string.sub(member, 2, id_end), string.sub(member, id_end + 1)
end

-- Calls `visit(namespace, its place)` for every namespace that an order key lists a checkpoint of.
local function each_namespace(order, visit)
  local member = redis.call('ZRANGEBYLEX', order, '[c', '(d', 'LIMIT', 0, 1)[1]
  while member do
    local ns = split_member(member)
    local place = ordered(ns)
    visit(ns, place)
    member = redis.call('ZRANGEBYLEX', order, '(c' .. place .. '\255', '(d', 'LIMIT', 0, 1)[1]
  end
end

-- The order member of the newest checkpoint of a namespace, or nil.
local function newest(order, ns_place)
  return redis.call('ZREVRANGEBYLEX', order, '(c' .. ns_place .. '\255', '[c' .. ns_place, 'LIMIT', 0, 1)[1]
end
