-- Tells when the logs of some threads of a partition expire, and which threads have ended.
--
-- KEYS: 1 expiries; then the threads' logs.
-- ARGV: the threads.
-- Reply: for each thread the ms since 1970, 'never', or 'ended'. A thread has not ended if its log is gone and was not to expire: it
--   is lost, and stays known.
-- Guarantees: only reads.

local EXPIRIES = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local whole = redis.call('ZSCORE', EXPIRIES, '')
local out = {}
for i, thread in ipairs(ARGV) do
  local left = redis.call('PTTL', KEYS[i + 1])
  if left >= 0 then
    out[i] = string.format('%.0f', now + left)
  elseif left == -1 or (whole and not redis.call('ZSCORE', EXPIRIES, 't' .. thread)) then
    out[i] = 'never'
  else
    out[i] = 'ended'
  end
end
return out
