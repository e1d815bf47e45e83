-- Reads a page of a log, entries whole.
--
-- Preludes: projections/log/log_pages, projections/log/log_ends.
-- KEYS: 1 log.
-- ARGV: 1 entry id to read after, '' for the start; 2 most entries; 3 bytes after which the page ends early; 4 anything, to
--   ask for the seals, too.
-- Reply: {{entry id, fields}, ...}; 1 if there are more, else 0; entry id of the log's last entry, '' for none; with the 4th
--   argument the seals of the first and the last entry, '' for none.
-- Guarantees: only reads.

local LOG = KEYS[1]
local after, most, most_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function size_of(fields)
  local bytes = 0
  for i = 1, #fields do
    bytes = bytes + #fields[i]
  end
  return bytes
end

local entries = page_of(LOG, after, most, most_bytes, 64, size_of)
local last = end_of(LOG, 'XREVRANGE', '+', '-')
local reached = entries[#entries]
return { entries, reached and last ~= reached[1] and 1 or 0, last, ARGV[4] and seals_of(LOG) }
