-- Reads a stretch of a log whole.
--
-- KEYS: 1 log.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most entries; 3 bytes after which the stretch ends early.
-- Reply: {{entry id, fields}, ...}; 1 if there are more, or 0; entry id of the log's last entry or ''.

local AT_ONCE = 64 -- entries read by one command, where they are small
local SMALL = 65536 -- bytes that such a command is to come to; it comes to more only where long entries follow short ones

local function size_of(fields)
  local bytes = 0
  for i = 1, #fields do
    bytes = bytes + #fields[i]
  end
  return bytes
end

local most, budget = tonumber(ARGV[2]), tonumber(ARGV[3])
local out, count, bytes, after, size, more = {}, 0, 0, ARGV[1], 1, true
while more and count < most and bytes <= budget do
  local wanted = math.min(size, most - count)
  local entries = redis.call('XRANGE', KEYS[1], after == '' and '-' or '(' .. after, '+', 'COUNT', wanted)
  local before, taken = bytes, 0
  while taken < #entries and bytes <= budget do
    taken = taken + 1
    bytes = bytes + size_of(entries[taken][2])
    out[count + taken] = entries[taken]
    after = entries[taken][1]
  end
  count = count + taken
  more = #entries == wanted
  size = math.max(1, math.min(AT_ONCE, 2 * size, math.floor(SMALL * taken / (bytes - before + 1))))
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return { out, count > 0 and last[1] ~= after and 1 or 0, last and last[1] or '' }
