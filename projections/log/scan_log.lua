-- Reads a page of a log without values: of a piece it keeps the form, the base and the checksum, of a write the name.
--
-- Preludes: eventlog/names, eventlog/stream_pages.
-- KEYS: 1 log.
-- ARGV: 1 entry id to read after, '' for the start; 2 most entries; 3 bytes in the log after which the page ends early.
-- Reply: {{entry id, fields}, ...}; 1 if there may be more, else 0.
-- Guarantees: only reads.

local LOG = KEYS[1]
local after, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- Leaves the values out of an entry's fields, and returns the bytes that they had.
local function shorten(fields)
  local bytes = FIELD / 2 * #fields
  for i = 1, #fields, 2 do
    local letter, value = string.byte(fields[i]), fields[i + 1]
    bytes = bytes + #value
    if letter == 61 then -- '='
      local _, last = check_in(value)
      fields[i + 1] = string.sub(value, 1, last or 1)
    elseif letter == 33 then -- '!'
      fields[i + 1] = ''
    end
  end
  return bytes
end

return { page_of(LOG, after, most, most_bytes, 16, shorten) }
