-- Tells when some logs of one partition expire.
--
-- KEYS: the logs.
-- Reply: for each the ms since 1970, 'never', or 'gone' if there is no such log.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local out = {}
for i, log in ipairs(KEYS) do
  local left = redis.call('PTTL', log)
  if left == -2 then
    out[i] = 'gone'
  elseif left == -1 then
    out[i] = 'never'
  else
    out[i] = string.format('%.0f', now + left)
  end
end
return out
