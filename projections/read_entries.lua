-- Reads a stretch of a log whole.
--
-- KEYS: 1 log.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most entries; 3 bytes after which the stretch ends early.
-- Reply: {{entry id, fields}, ...}, entry id of the log's last entry or ''.

local out, bytes, after = {}, 0, ARGV[1]
while #out < tonumber(ARGV[2]) and bytes <= tonumber(ARGV[3]) do
  local entry = redis.call('XRANGE', KEYS[1], after == '' and '-' or '(' .. after, '+', 'COUNT', 1)[1]
  if not entry then
    break
  end
  out[#out + 1] = entry
  after = entry[1]
  for _, part in ipairs(entry[2]) do
    bytes = bytes + #part
  end
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
return { out, last and last[1] or '' }
