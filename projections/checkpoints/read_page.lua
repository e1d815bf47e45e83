-- Reads checkpoints of one namespace, newest first by checkpoint id, or those that are named.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua.
-- ARGV: 1 thread; 2 '1' for whole views, '0' for envelopes and sort keys only; 3 bytes after which the page ends early;
--   4 namespace's sort key; 5 checkpoint id, ordered, below which the page begins, '' for the newest; 6 most checkpoints.
--   Or, from 4 on: '*', then the sort keys of the checkpoints wanted.
-- Reply: {'page', views, pieces, versions, 1 if there may be more}, as checkpoint_view.lua describes them; without values and
--   writes, a view is {envelope, sort key}. Of named checkpoints, the page has those that exist, up to its early end;
--   {'gone', ...} or {'deep', ...} as checkpoint_view.lua says; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: writes nothing.

local whole, budget = ARGV[2] == '1', tonumber(ARGV[3])
local ns_sort_key, below, most = ARGV[4], ARGV[5], tonumber(ARGV[6])

local state, why = open()
if not state then
  return { why }
end

local wanted, more = {}, false
if ARGV[4] == '*' then
  for i = 5, #ARGV do
    wanted[#wanted + 1] = members(ORDER, 'c' .. ARGV[i])[1]
  end
else
  local bound = '(c' .. ns_sort_key .. (below == '' and '\255' or below)
  wanted = redis.call('ZREVRANGEBYLEX', ORDER, bound, '[c' .. ns_sort_key, 'LIMIT', 0, most)
  more = #wanted == most
end

local read = reader()

local function envelope_of(member)
  local _, _, entry_id = split_member(member)
  local entry = entry_at(read, entry_id)
  local envelope = entry and field_of(entry, 'e')
  read.entries = {}
  if not envelope then
    return nil, { 'gone', entry_id }
  end
  return { envelope, string.sub(member, 2) }
end

local views = {}
for i, member in ipairs(wanted) do
  local found, why_not
  if whole then
    found, why_not = view(read, member, state.l)
  else
    found, why_not = envelope_of(member)
  end
  if not found then
    return why_not
  end
  views[i] = found
  if read.bytes > budget and i < #wanted then
    more = true
    break
  end
end
return { 'page', views, pieces_of(read), read.versions, more and 1 or 0 }
