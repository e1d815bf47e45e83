-- Walks from a checkpoint up its parents, and gathers the writes and values that some channels are rebuilt from.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua.
-- ARGV: 1 thread; 2 namespace; 3 its sort key; 4 checkpoint id, ordered, to start at, '' for the latest; 5 '1' to gather from that
--   checkpoint too, '0' from its parent on; 6 most steps, 7 bytes, after which the walk pauses; 8... channels.
-- Reply: {'walk', id to go on at, steps, pieces, origin's entry id, origin's id}: ids are ordered, pieces as in checkpoint_view.lua.
--   The first id is '' at the end of the walk. The origin is the checkpoint started at if nothing is gathered from it, else ''.
--   A step is {entry id, values, writes} of a checkpoint, newest first; values are, in turn, the position of a channel (from 1)
--   and the number of its piece. A channel's walk ends at the first checkpoint that holds a value of it;
--   {'gone', ...} or {'deep', ...} as checkpoint_view.lua says; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: writes nothing.

local ns, ns_sort_key, start, inclusive = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local most, budget = tonumber(ARGV[6]), tonumber(ARGV[7])

local state, why = open()
if not state then
  return { why }
end

local read = reader()
local wanted, left = {}, 0 -- position by channel of those without a value so far, and how many these are
for i = 8, #ARGV do
  wanted[ARGV[i]] = i - 7
  left = left + 1
end

local function find(id)
  local sort_key = ns_sort_key .. id
  return members(ORDER, 'c' .. sort_key)[1] or members(ORDER, 'h' .. sort_key)[1], sort_key
end

-- The values that a checkpoint's entry leads to of channels that are wanted.
local function wanted_values(entry_id)
  local versions, why_not = versions_at(read, entry_id)
  local found = {}
  read.bytes = read.bytes + PART / 4 * (versions and #versions or 0)
  for i = 2, versions and #versions or 0, 2 do
    local channel, version_key = versions[i], versions[i + 1]
    if wanted[channel] then
      local value = redis.call('HGET', INDEX, 'v' .. counted(ns) .. counted(version_key) .. channel)
      local number
      number, why_not = piece_at(read, version_key, channel, value and string.sub(value, 1, -9))
      if not number then
        return nil, why_not
      end
      if number > 0 and read.pieces[number] ~= 'E' then
        found[#found + 1] = wanted[channel]
        found[#found + 1] = number
      end
    end
  end
  return versions and found, why_not
end

local member, sort_key
if start == '' then
  member = newest(ORDER, ns_sort_key)
  if member then
    local _, found = split_member(member)
    sort_key = found
  end
else
  member, sort_key = find(start)
end

local steps, seen, next_id, origin, origin_id = {}, {}, '', '', ''
local gathers = inclusive
while member and left > 0 and not seen[member] do
  seen[member] = true
  local id, entry_id = string.sub(sort_key, #ns_sort_key + 1), string.sub(member, #sort_key + 2)
  if #steps == most or read.bytes > budget then
    next_id = id
    break
  end
  local entry = entry_at(read, entry_id)
  if not entry then
    return { 'gone', entry_id }
  end
  if gathers then
    local writes
    local values, why_not = wanted_values(entry_id)
    if values then
      writes, why_not = writes_of(read, member, state.l)
    end
    if not writes then
      return why_not
    end
    steps[#steps + 1] = { entry_id, values, writes }
    for i = 1, #values, 2 do
      wanted[ARGV[7 + values[i]]] = nil
      left = left - 1
    end
  else
    origin, origin_id, gathers = entry_id, id, true
  end
  read.entries = {}
  local parent = field_of(entry, 'p')
  if not parent then
    break
  end
  member, sort_key = find(ordered(parent))
end
return { 'walk', next_id, steps, pieces_of(read), origin, origin_id }
