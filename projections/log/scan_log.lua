-- Reads a stretch of the log, values left out: of a piece its form is kept, and what a delta was made against; of a write nothing but its
-- name.
--
-- Preludes: eventlog/names.
-- KEYS: 1 log.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most entries; 3 bytes in the log after which the stretch ends early.
-- Reply: {{entry id, fields}, ...}; 1 if there may be more.

local AT_ONCE = 16 -- entries read by one command, where they are small
local SMALL = 65536 -- bytes that such a command is to come to; it comes to more only where long entries follow short ones

local function stub(piece)
  local _, last = check_in(piece)
  return string.sub(piece, 1, last or 1)
end

-- Leaves values out of an entry's fields; how many bytes there were.
local function shorten(fields)
  local bytes = 0
  for i = 1, #fields, 2 do
    local letter, value = string.byte(fields[i]), fields[i + 1]
    bytes = bytes + #value
    if letter == 61 then -- '='
      fields[i + 1] = stub(value)
    elseif letter == 33 then -- '!'
      fields[i + 1] = ''
    end
  end
  return bytes
end

local most, budget = tonumber(ARGV[2]), tonumber(ARGV[3])
local out, count, bytes, after, size, more = {}, 0, 0, ARGV[1], 1, 1
while more == 1 and count < most and bytes <= budget do
  local wanted = math.min(size, most - count)
  local entries = redis.call('XRANGE', KEYS[1], after == '' and '-' or '(' .. after, '+', 'COUNT', wanted)
  local before, taken = bytes, 0
  while taken < #entries and bytes <= budget do
    taken = taken + 1
    bytes = bytes + shorten(entries[taken][2])
    out[count + taken] = entries[taken]
    after = entries[taken][1]
  end
  count = count + taken
  if taken == #entries and taken < wanted then
    more = 0
  end
  size = math.max(1, math.min(AT_ONCE, 2 * size, math.floor(SMALL * taken / (bytes - before + 1))))
end
return { out, more }
