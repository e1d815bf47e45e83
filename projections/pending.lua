-- Prelude: how the writes in a log entry become pending writes.
--
-- A pending write is named `!<index>:<task id>`; its value is the task path, behind its length, then the write as logged.
-- An ordinary write (index >= 0) is kept as it came first, a special one as it came last.

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

-- Calls `visit(name, value, special)` for each pending write in the fields of an entry.
local function each_write(fields, visit)
  local task, path = task_of(fields)
  for i = 1, #fields, 2 do
    local index = string.match(fields[i], '^!(%-?%d+)$')
    if index then
      visit('!' .. index .. ':' .. task, counted(path) .. fields[i + 1], string.byte(index) == 45)
    end
  end
end

-- Adds the writes in the fields of an entry to a head.
local function hold_writes(head, fields)
  each_write(fields, function(name, value, special)
    redis.call(special and 'HSET' or 'HSETNX', head, name, value)
  end)
end
