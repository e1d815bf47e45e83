-- Reads a stretch of the log, values left out: of a piece its form is kept, of a write nothing but its name.
--
-- KEYS: 1 log.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most entries.
-- Reply: {{entry id, fields}, ...}

local entries = redis.call('XRANGE', KEYS[1], ARGV[1] == '' and '-' or '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
for _, entry in ipairs(entries) do
  local fields = entry[2]
  for i = 1, #fields, 2 do
    local letter = string.byte(fields[i])
    if letter == 61 then -- '='
      fields[i + 1] = string.sub(fields[i + 1], 1, 1)
    elseif letter == 33 then -- '!'
      fields[i + 1] = ''
    end
  end
end
return entries
