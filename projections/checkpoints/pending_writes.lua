-- Prelude: how the writes in a log entry become pending writes.
--
-- A pending write is named `!<index>:<task id>`; it has a task path and the write as logged.
-- An ordinary write (index >= 0) counts as it came first, a special one as it came last. A head holds the writes of an entry as they
-- are, in one field: which of them count is found out by who reads them.

local function task_of(fields)
  local task, path
  for i = 1, #fields, 2 do
    if fields[i] == 't' then
      task = fields[i + 1]
    elseif fields[i] == 'a' then
      path = fields[i + 1]
    end
  end
  return task, path
end

-- Calls `visit(name, path, value, special)` for each pending write in the fields of an entry.
local function each_write(fields, visit)
  local task, path = task_of(fields)
  for i = 1, #fields, 2 do
    local index = string.match(fields[i], '^!(%-?%d+)$')
    if index then
      visit('!' .. index .. ':' .. task, path, fields[i + 1], string.byte(index) == 45)
    end
  end
end

-- The writes in the fields of an entry as a head's field `!<number>` holds them: task, path, then name and value of each, all
-- behind their lengths. Values may be long: they are copied once.
local function packed_writes(fields)
  local task, path = task_of(fields)
  local parts = { counted(task), counted(path) }
  for i = 1, #fields, 2 do
    if string.byte(fields[i]) == 33 then -- '!'
      parts[#parts + 1] = counted(fields[i])
      parts[#parts + 1] = #fields[i + 1] .. ':'
      parts[#parts + 1] = fields[i + 1]
    end
  end
  return table.concat(parts)
end
