-- Prelude, after log.lua: events as arguments of a script, each its content digest, its number of fields, and its fields.

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

-- Nil if signed events may follow, else a reply: {'unseen', entry id and fields of the log's last entry}, {'unseen'} without one.
-- They may if their writer had seen the last entry, by its digest, or if its seal begins as theirs do, with the mark of the life.
-- Unsigned events (seal '') may always.
local function unseen(state, digest, seal)
  if seal == '' or digest == state.d then
    return nil
  end
  local last = fields_at(state.l)
  if last and string.sub(field_of(last, 'g') or '', 1, #seal) == seal then
    return nil
  end
  return { 'unseen', last and state.l, last }
end
