-- Prelude: the names of `eventlog/keys.py`, and what is kept under them, for scripts that say which keys.

-- A part behind its length, so that what follows it cannot be mistaken for it.
local function counted(part)
  return #part .. ':' .. part
end

-- A part in an encoding that ends itself and sorts as the part does.
local function ordered(part)
  return string.gsub(part, '%z', '\0\255') .. '\0'
end

-- Whether an entry id is one that this project gave, to an entry before another's.
local function is_before(entry_id, other)
  local ms, other_ms = string.match(entry_id, '^(%d+)%-0$'), string.match(other, '^(%d+)%-0$')
  return ms and other_ms and tonumber(ms) < tonumber(other_ms)
end

-- Entry and version token that a delta's piece was made against, and where the delta begins; nil for any other piece.
local function base_of(piece)
  local form, high, low = string.byte(piece, 1, 3)
  if form ~= 68 and form ~= 100 then -- 'D', 'd'
    return nil
  end
  local start = 4 + (high or 0) * 256 + (low or 0)
  local size, from = string.match(piece, '^(%d+):()', 4)
  if size and from + size < start then -- else it is damaged, which its reader finds out
    return string.sub(piece, from, from + size - 1), string.sub(piece, from + size, start - 1), start
  end
end

-- The check of the value that a piece stands for, and where it ends; that of no value for a piece without one.
local function check_in(piece)
  local _, _, start = base_of(piece)
  if start then
    return string.sub(piece, start + 8, start + 15), start + 15
  end
  local size, from = string.match(piece, '^[Kk](%d+):()')
  if not size then
    return string.rep('\0', 8)
  end
  return string.sub(piece, from + size, from + size + 7), from + size + 7
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

-- Entry id of an order member of writes: behind the checkpoint's place and the task.
local function writes_entry(member, place)
  return string.sub(member, part_end(member, #place + 2) + 1)
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

local function members(key, prefix)
  return redis.call('ZRANGEBYLEX', key, '[' .. prefix, '(' .. prefix .. '\255')
end

-- Notes that a run wrote to a thread.
local function remember_run(runs, thread, run)
  redis.call('ZADD', runs, 0, 'r' .. counted(run) .. thread, 0, 't' .. counted(thread) .. run)
end

-- Takes a thread out of the views of a partition, or of those that are given (`expiries` may be nil).
local function forget_thread(threads, runs, expiries, thread)
  redis.call('ZREM', threads, 't' .. thread)
  if expiries then
    redis.call('ZREM', expiries, 't' .. thread)
  end
  local prefix = 't' .. counted(thread)
  for _, member in ipairs(members(runs, prefix)) do
    redis.call('ZREM', runs, member, 'r' .. counted(string.sub(member, #prefix + 1)) .. thread)
  end
end
