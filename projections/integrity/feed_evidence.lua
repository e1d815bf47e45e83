-- Reads a partition's feed after an offset: of each pointer, where it says that its thread's log ends.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/feed/reading, eventlog/stream_pages.
-- KEYS: 1 feed; 2 trimmed.
-- ARGV: 1 entry id to read after; 2 its fingerprint, '' if it is not known; 3 most pointers; then the threads that are wanted, none
--   for all.
-- Reply: {'ok', {pointer's id, thread, entry id, number, kind, digest, ...}, id and fingerprint of the last pointer read, 1 if more may
--   follow, else 0}, with '' for fields that a pointer lacks; {'trimmed'} or {'lost'} as reading.lua says.
-- Guarantees: only reads.

local FEED, TRIMMED = KEYS[1], KEYS[2]
local after, fingerprint, most = ARGV[1], ARGV[2], tonumber(ARGV[3])

local status = standing(FEED, TRIMMED, after, fingerprint)
if status ~= 'ok' then
  return { status }
end
local wanted = #ARGV > 3 and {} or nil
for i = 4, #ARGV do
  wanted[ARGV[i]] = true
end

-- Thread, entry id, number and kind of a pointer, and the digest in that of a thread that was deleted.
local function parts(fields)
  if fields[1] == 'thread' and fields[3] == 'id' and fields[5] == 'seq' and fields[7] == 'kind' and fields[4] ~= '' then
    return fields[2], fields[4], fields[6], fields[8] -- as nearly all pointers are
  end
  local pointer = pointer_of(fields)
  return pointer.thread, pointer.id, pointer.seq, pointer.kind, pointer.digest
end

local entries, more = page_of(FEED, after, most, 8388608, 256, bytes_of)
local out, size = {}, 0
for _, entry in ipairs(entries) do
  local thread, id, seq, kind, digest = parts(entry[2])
  if not wanted or (thread and wanted[thread]) then
    out[size + 1], out[size + 2], out[size + 3] = entry[1], thread or '', id or ''
    out[size + 4], out[size + 5], out[size + 6] = seq or '', kind or '', digest or ''
    size = size + 6
  end
end
local last = entries[#entries]
if not last then
  return { 'ok', out, after, fingerprint, 0 }
end
return { 'ok', out, last[1], pointer_check(last[2]), more }
