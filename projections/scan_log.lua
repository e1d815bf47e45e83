-- Reads a stretch of the log, values left out: of a piece its form is kept, and what a delta was made against; of a write nothing but its
-- name.
--
-- KEYS: 1 log.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most entries; 3 bytes in the log after which the stretch ends early.
-- Reply: {{entry id, fields}, ...}; 1 if there is more.

local function stub(piece)
  local _, last = check_in(piece)
  return string.sub(piece, 1, last or 1)
end

local out, bytes, after, more = {}, 0, ARGV[1], 1
while #out < tonumber(ARGV[2]) and bytes <= tonumber(ARGV[3]) do
  local entry = redis.call('XRANGE', KEYS[1], after == '' and '-' or '(' .. after, '+', 'COUNT', 1)[1]
  if not entry then
    more = 0
    break
  end
  local fields = entry[2]
  for i = 1, #fields, 2 do
    local letter = string.byte(fields[i])
    bytes = bytes + #fields[i + 1]
    if letter == 61 then -- '='
      fields[i + 1] = stub(fields[i + 1])
    elseif letter == 33 then -- '!'
      fields[i + 1] = ''
    end
  end
  out[#out + 1] = entry
  after = entry[1]
end
return { out, more }
