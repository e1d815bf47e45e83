-- Prelude: events as arguments of a script, each its content digest, its number of fields, and its fields.

-- Some events in ARGV from an index on, as tables {content, fields}; and the index after them.
local function events_at(first, count)
  local events, at = {}, first
  for i = 1, count do
    local size = tonumber(ARGV[at + 1])
    events[i] = { content = ARGV[at], fields = { unpack(ARGV, at + 2, at + 1 + size) } }
    at = at + 2 + size
  end
  return events, at
end
