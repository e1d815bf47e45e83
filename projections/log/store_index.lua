-- Puts a staged index and order in place, if they were folded from the whole log.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 8 staged index; 9 staged order.
-- ARGV: 1 thread; 2 entry id of the last entry that was folded; 3 number of entries that were folded.
-- Reply: 1 if stored, also by an earlier call that was sent again; 0 if the log has moved on, or the staged keys have expired; -1 if
--   the last entry that the old index knew was removed from the log by hand.
-- Guarantees: writes index and order together, or, with any other reply than 1, nothing. Both expire when the log does.

local STAGED_INDEX, STAGED_ORDER = KEYS[8], KEYS[9]
local folded_to, entries = ARGV[2], ARGV[3]

if redis.call('EXISTS', STAGED_INDEX, STAGED_ORDER) < 2 then
  local has = redis.call('HMGET', INDEX, 'l', 'c')
  return has[1] == folded_to and has[2] == entries and redis.call('ZSCORE', ORDER, '') and 1 or 0
end
local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
if not last or last[1] ~= folded_to or redis.call('XLEN', LOG) ~= tonumber(entries) then
  return 0
end
local old = redis.call('HGET', INDEX, 'l')
if old and old ~= folded_to and field_of(redis.call('XINFO', 'STREAM', LOG), 'last-generated-id') == old then
  return -1
end
redis.call('UNLINK', INDEX, ORDER) -- a rename would free them at once
redis.call('RENAME', STAGED_INDEX, INDEX)
redis.call('RENAME', STAGED_ORDER, ORDER)
local left = redis.call('PTTL', LOG)
for _, key in ipairs({ INDEX, ORDER }) do
  if left >= 0 then
    expire_at(key, now() + left)
  else
    redis.call('PERSIST', key)
  end
end
return 1
