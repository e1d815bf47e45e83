-- Prelude for all scripts: the names of `eventlog/keys.py`, and functions on the data with these names.

-- A part after its length, which separates it from the bytes that follow.
local function counted(part)
  return #part .. ':' .. part
end

-- A part in an encoding that marks its end and sorts as the part does.
local function ordered(part)
  return string.gsub(part, '%z', '\0\255') .. '\0'
end

-- Whether an entry id has the form of this project and precedes another.
local function is_before(entry_id, other)
  local ms, other_ms = string.match(entry_id, '^(%d+)%-0$'), string.match(other, '^(%d+)%-0$')
  return ms and other_ms and tonumber(ms) < tonumber(other_ms)
end

-- Entry id and version key of the base of a delta's piece, and where its checksums begin; nil for any other piece.
local function base_of(piece)
  local form, high, low = string.byte(piece, 1, 3)
  if form ~= 68 and form ~= 100 then -- 'D', 'd'
    return nil
  end
  local start = 4 + (high or 0) * 256 + (low or 0)
  local size, from = string.match(piece, '^(%d+):()', 4)
  if size and from + size < start then -- otherwise it is damaged, which its reader reports
    return string.sub(piece, from, from + size - 1), string.sub(piece, from + size, start - 1), start
  end
end

-- The checksum of a piece's value, and where it ends; for a piece without a value only zeros.
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

-- Where the ordered part that begins at `from` ends.
local function part_end(bytes, from)
  local zero = string.find(bytes, '\0', from, true)
  while string.byte(bytes, zero + 1) == 255 do
    zero = string.find(bytes, '\0', zero + 2, true)
  end
  return zero
end

-- Namespace, sort key of the checkpoint, and entry id of an order member.
local function split_member(member)
  local ns_end = part_end(member, 2)
  local id_end = part_end(member, ns_end + 1)
  local ns = string.gsub(string.sub(member, 2, ns_end - 1), '%z\255', '\0')
  return ns, string.sub(member, 2, id_end), string.sub(member, id_end + 1)
end

-- Entry id of an order member of writes, which follows the checkpoint's sort key and the task.
local function writes_entry(member, sort_key)
  return string.sub(member, part_end(member, #sort_key + 2) + 1)
end

-- Calls `visit(namespace, its sort key)` for the namespaces with a checkpoint in an order key that follow `after`, a sort key, '' for
-- the start. A namespace takes one of `left` or, if its name is long, more; the walk ends early once none is left. Returns what is left,
-- and the sort key to go on after, nil at the end of the order.
local function each_namespace(order, after, left, visit)
  local bound = after == '' and '[c' or '(c' .. after .. '\255'
  while true do
    local member = redis.call('ZRANGEBYLEX', order, bound, '(d', 'LIMIT', 0, 1)[1]
    if not member then
      return left, nil
    end
    if left <= 0 then
      return left, after
    end
    local ns = split_member(member)
    after = ordered(ns)
    visit(ns, after)
    left = left - 1 - math.floor(#member / 512)
    bound = '(c' .. after .. '\255'
  end
end

-- The order member of a namespace's newest checkpoint, or nil.
local function newest(order, ns_key)
  return redis.call('ZREVRANGEBYLEX', order, '(c' .. ns_key .. '\255', '[c' .. ns_key, 'LIMIT', 0, 1)[1]
end

-- The members of a sorted set with a prefix.
local function members(key, prefix)
  return redis.call('ZRANGEBYLEX', key, '[' .. prefix, '(' .. prefix .. '\255')
end

-- Records that a run wrote to a thread.
local function remember_run(runs, thread, run)
  redis.call('ZADD', runs, 0, 'r' .. counted(run) .. thread, 0, 't' .. counted(thread) .. run)
end

-- The member of `runs` which says that a thread ended, and that runs of it are left. Readers ignore these. Nothing may be added to them.
local function ended(thread)
  return 'd' .. thread
end

-- Removes runs of a thread from a view of runs: about 1000 by `share`, and fewer of a thread with a long id. Returns 1 if some are left,
-- else 0, and how many it removed. With `mark`, a thread of which some are left is marked as ended.
local function forget_runs(runs, thread, share, mark)
  local prefix, most = 't' .. counted(thread), math.ceil(1000 * share / (1 + #thread / 1024))
  local found = redis.call('ZRANGEBYLEX', runs, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, most)
  for _, member in ipairs(found) do
    redis.call('ZREM', runs, member, 'r' .. counted(string.sub(member, #prefix + 1)) .. thread)
  end
  if #found < most then
    redis.call('ZREM', runs, ended(thread))
    return 0, #found
  end
  if mark then
    redis.call('ZADD', runs, 0, ended(thread))
  end
  return 1, #found
end
