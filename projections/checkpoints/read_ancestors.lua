-- Walks from a checkpoint up its parents and gathers what some channels were built from.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua.
-- ARGV: 1 thread; 2 namespace, 3 its place; 4 checkpoint id to start below, ordered ('' for the latest's);
--   5 '1' to begin at that checkpoint itself rather than at its parent; 6 most steps, 7 bytes after which the walk pauses; 8... channels.
-- Reply: {'walk', next checkpoint id to begin at or '' at the end, for each checkpoint from the newest up:
--   {flat channel position, number of its piece, ... of the values found; writes; its entry id}, pieces, entry id and id, ordered, of the checkpoint
--   started below, or '' and ''}, as view.lua has them; {'gone', entry id};
--   {'stale'} or {'lost'}. A channel's walk ends at the first checkpoint that holds a value of it. Positions count `channels` from 1.

local ns, ns_place, start = ARGV[2], ARGV[3], ARGV[4]
local inclusive, most, budget = ARGV[5] == '1', tonumber(ARGV[6]), tonumber(ARGV[7])

local state, why = open()
if not state then
  return { why }
end

local wanted, left = {}, 0
for i = 8, #ARGV do
  wanted[ARGV[i]] = i - 7
  left = left + 1
end

local function member_of(id)
  local place = ns_place .. id
  return members(ORDER, 'c' .. place)[1] or members(ORDER, 'h' .. place)[1], place
end

local read, steps, member, place = reader(), {}, nil, nil
if start == '' then
  member = newest(ORDER, ns_place)
  if member then
    local _, found = split_member(member)
    place = found
  end
else
  member, place = member_of(start)
end

local first = not inclusive
local last, seen, origin, origin_id = '', {}, '', ''
while member and left > 0 and not seen[member] do
  seen[member] = true
  if #steps == most or read.bytes > budget then
    last = string.sub(place, #ns_place + 1)
    break
  end
  local entry_id = string.sub(member, #place + 2)
  local entry = entry_at(read, entry_id)
  if not entry then
    return { 'gone', entry_id }
  end
  if not first then
    local found = {}
    local versions, unknown = versions_at(read, entry_id)
    if not versions then
      return { 'gone', unknown }
    end
    for i = 2, #versions, 2 do
      local position = wanted[versions[i]]
      if position then
        local channel, token = versions[i], versions[i + 1]
        local value_id = redis.call('HGET', INDEX, 'v' .. counted(ns) .. counted(token) .. channel)
        local number, gone = piece_at(read, token, channel, value_id and string.sub(value_id, 1, -9))
        if not number then
          return { 'gone', gone }
        end
        if number > 0 and read.pieces[number] ~= 'E' then
          found[#found + 1] = position
          found[#found + 1] = number
        end
      end
    end
    local writes, gone = writes_of(read, place)
    if not writes then
      return { 'gone', gone }
    end
    steps[#steps + 1] = { found, writes, { entry_id } }
    for i = 1, #found, 2 do
      wanted[ARGV[7 + found[i]]] = nil
      left = left - 1
    end
  end
  if first then
    origin, origin_id = entry_id, string.sub(place, #ns_place + 1)
  end
  first = false
  read.entries = {}
  local parent = field_of(entry, 'p')
  if not parent then
    break
  end
  member, place = member_of(ordered(parent))
end
return { 'walk', last, steps, pieces_of(read), origin, origin_id }
