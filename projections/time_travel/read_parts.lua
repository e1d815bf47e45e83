-- Reads parts of a log by the entries they lie in, whatever views there are: it asks the log alone, and writes nothing.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua.
-- ARGV: 1 thread; 2 number of values, then entry id, version token and channel of each; number of checkpoints, then the entry id of
--   each; then the entry ids of writes.
-- Reply: {number of each value's piece, 0 where the log lacks what it is made of;
--   {envelope, number of its versions, parent or '', check of these or ''} of each checkpoint, {} where it is gone;
--   {entry id, task, task path, field name, value, ...} of each entry of writes, {} where it is gone; pieces; versions}, both as view.lua
--   has them.

local read, at = reader(), 3

local values = {}
for i = 1, tonumber(ARGV[2]) do
  values[i] = piece_at(read, ARGV[at + 1], ARGV[at + 2], ARGV[at]) or 0
  at = at + 3
end

local checkpoints = {}
local count = tonumber(ARGV[at])
for i = 1, count do
  local entry_id = ARGV[at + i]
  local entry = entry_at(read, entry_id)
  local envelope = entry and field_of(entry, 'e')
  local versions = envelope and versions_at(read, entry_id)
  checkpoints[i] = versions and { envelope, versions[1], field_of(entry, 'p') or '', field_of(entry, 'y') or '' } or {}
end
at = at + count

local writes = {}
for i = at + 1, #ARGV do
  local entry = entry_at(read, ARGV[i])
  local found = {}
  if entry then
    found = { ARGV[i], field_of(entry, 't'), field_of(entry, 'a') }
    for j = 1, #entry, 2 do
      if string.byte(entry[j]) == 33 then -- '!'
        found[#found + 1] = entry[j]
        found[#found + 1] = entry[j + 1]
      end
    end
  end
  writes[#writes + 1] = found
end
return { values, checkpoints, writes, pieces_of(read), read.versions }
