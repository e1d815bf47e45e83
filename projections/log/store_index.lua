-- Puts an index and an order that were rebuilt from the log in the place of theirs, unless the log has moved on.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 8 staged index; 9 staged order.
-- ARGV: 1 thread; 2 last entry id of the log that was folded; 3 number of its entries.
-- Reply: 1 if stored, by an earlier call that was sent again too; 0 if the log has moved on, or what was staged has dropped itself; -1 if the last entry that the old index knew was taken out of the log by hand.

if redis.call('EXISTS', KEYS[8], KEYS[9]) < 2 then
  local has = redis.call('HMGET', INDEX, 'l', 'c')
  return has[1] == ARGV[2] and has[2] == ARGV[3] and redis.call('ZSCORE', ORDER, '') and 1 or 0
end
local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
if not last or last[1] ~= ARGV[2] or redis.call('XLEN', LOG) ~= tonumber(ARGV[3]) then
  return 0
end
local old = redis.call('HGET', INDEX, 'l')
if old and old ~= last[1] then
  local about = redis.call('XINFO', 'STREAM', LOG)
  for i = 1, #about, 2 do
    if about[i] == 'last-generated-id' and about[i + 1] == old then
      return -1
    end
  end
end
redis.call('RENAME', KEYS[8], INDEX)
redis.call('RENAME', KEYS[9], ORDER)
local left = redis.call('PTTL', LOG)
for _, key in ipairs({ INDEX, ORDER }) do
  if left >= 0 then
    expire_at(key, now() + left)
  else
    redis.call('PERSIST', key)
  end
end
return 1
