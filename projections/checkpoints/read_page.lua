-- Reads checkpoints of one namespace, newest first by checkpoint id, or those named.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua.
-- ARGV: 1 thread; 2 '1' with values and writes, else views are {envelope, place} only; 3 bytes after which the page ends early; 4 namespace's place; 5 checkpoint id,
--   ordered, below which the page begins, '' for the newest; 6 most checkpoints; or instead of 4 to 6 the places wanted,
--   as many as there are, behind '*'.
-- Reply: {'page', views, pieces, versions, '1' if there may be more}: of places named, those that are there, up to the early end;
--   {'gone', entry id} if the log lacks an entry; {'stale'} or {'lost'}.

local full, budget = ARGV[2] == '1', tonumber(ARGV[3])

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
  local bound = '(c' .. ARGV[4] .. (ARGV[5] == '' and '\255' or ARGV[5])
  wanted = redis.call('ZREVRANGEBYLEX', ORDER, bound, '[c' .. ARGV[4], 'LIMIT', 0, ARGV[6])
  more = #wanted == tonumber(ARGV[6])
end

local read, views = reader(), {}
for i, member in ipairs(wanted) do
  local found, gone
  if full then
    found, gone = view(read, member)
  else
    gone = string.match(member, '%d+%-%d+$')
    local entry = entry_at(read, gone)
    local envelope = entry and field_of(entry, 'e')
    found = envelope and { envelope, string.sub(member, 2) }
    read.entries = {}
  end
  if not found then
    return { 'gone', gone }
  end
  views[i] = found
  if read.bytes > budget and i < #wanted then
    more = true
    break
  end
end
return { 'page', views, pieces_of(read), read.versions, more and 1 or 0 }
