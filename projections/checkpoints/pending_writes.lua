-- Prelude, after log.lua: the writes in a log entry as pending writes.
--
-- A pending write is named `!<index>:<task id>`. It has a task path, and the write as the log has it.
-- Of several ordinary writes (index >= 0) the first counts, of several special ones the last. A head holds all writes of an entry in
-- one field; its readers find out which of them count.

-- Calls `visit(name, path, value, is_special)` for each pending write in the fields of an entry.
local function each_write(fields, visit)
  local task, path = field_of(fields, 't'), field_of(fields, 'a')
  for i = 1, #fields, 2 do
    local index = string.match(fields[i], '^!(%-?%d+)$')
    if index then
      visit('!' .. index .. ':' .. task, path, fields[i + 1], string.byte(index) == 45) -- '-'
    end
  end
end

-- The writes of an entry as one field of a head: task, path, then name and value of each, all counted. A long value is copied once.
local function packed_writes(fields)
  local parts = { counted(field_of(fields, 't')), counted(field_of(fields, 'a')) }
  for i = 1, #fields, 2 do
    if string.byte(fields[i]) == 33 then -- '!'
      parts[#parts + 1] = counted(fields[i])
      parts[#parts + 1] = #fields[i + 1] .. ':'
      parts[#parts + 1] = fields[i + 1]
    end
  end
  return table.concat(parts)
end
