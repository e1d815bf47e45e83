-- Reads parts of a log by the entries that hold them. It reads the log alone, whatever the views say.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua.
-- ARGV: 1 thread; 2 number of values, then entry id, version key and channel of each; number of checkpoints, then the entry id
--   of each; then the entry ids of writes.
-- Reply: {numbers of the values' pieces, checkpoints, writes, pieces, versions}, the last two as checkpoint_view.lua describes
--   them. A number is 0 where the log lacks a part of the value. A checkpoint is {envelope, number of its versions, parent,
--   checksum of its versions}, parent and checksum '' for none; writes are {entry id, task, task path, field name, value, ...}.
--   A checkpoint or writes that the log lacks are {}.
--   The whole reply is {'deep', entry id}, as checkpoint_view.lua describes it, if a checkpoint or a value is so.
-- Guarantees: writes nothing.

local read, at = reader(), 3

local values = {}
for i = 1, tonumber(ARGV[2]) do
  local entry_id, version_key, channel = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local number, why = piece_at(read, version_key, channel, entry_id)
  if why and why[1] == 'deep' then
    return why
  end
  values[i] = number or 0
  at = at + 3
end

local checkpoints = {}
local count = tonumber(ARGV[at])
for i = 1, count do
  local entry_id = ARGV[at + i]
  local entry = entry_at(read, entry_id)
  local envelope = entry and field_of(entry, 'e')
  local changes, why
  if envelope then
    changes, why = changes_at(read, entry_id)
  end
  if why and why[1] == 'deep' then
    return why
  end
  checkpoints[i] = changes and { envelope, changes[1][1], field_of(entry, 'p') or '', field_of(entry, 'y') or '' } or {}
end

local writes = {}
for i = at + count + 1, #ARGV do
  writes[#writes + 1] = writes_at(read, ARGV[i]) or {}
end
return { values, checkpoints, writes, pieces_of(read), read.versions }
