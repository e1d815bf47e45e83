-- Reads where a partition's feed begins and ends.
--
-- Preludes: eventlog/names, eventlog/pointers.
-- KEYS: 1 feed, 2 trimmed.
-- ARGV: none.
-- Reply: id and fingerprint of the last entry that was trimmed, '0-0' and '' if there is none; the same of the last entry that was appended.

local feed, trimmed = KEYS[1], KEYS[2]
local past = redis.call('HMGET', trimmed, 'id', 'check')
local entry = redis.call('XREVRANGE', feed, '+', '-', 'COUNT', 1)[1]
local first_id, first_fingerprint = past[1] or '0-0', past[2] or ''
if entry then
  return { first_id, first_fingerprint, entry[1], pointer_check(entry[2]) }
end
return { first_id, first_fingerprint, first_id, first_fingerprint }
