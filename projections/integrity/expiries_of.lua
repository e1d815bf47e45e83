-- Tells which threads of a partition have ended, and when the others' logs expire.
--
-- KEYS: 1 expiries; then the threads' logs.
-- ARGV: the threads.
-- Reply: for each the ms since 1970; 'never'; or 'ended'. A thread whose log is gone although it was not to expire has not ended:
--   it is lost, and stays known.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local whole = redis.call('ZSCORE', KEYS[1], '')
local out = {}
for i, thread in ipairs(ARGV) do
  local left = redis.call('PTTL', KEYS[i + 1])
  if left >= 0 then
    out[i] = string.format('%.0f', now + left)
  elseif left == -1 or (whole and not redis.call('ZSCORE', KEYS[1], 't' .. thread)) then
    out[i] = 'never'
  else
    out[i] = 'ended'
  end
end
return out
