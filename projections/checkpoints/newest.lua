-- Finds the newest checkpoint of every namespace of some threads of one partition.
--
-- Preludes: eventlog/names.
-- KEYS: order key and log of each thread, in turn.
-- Reply: for each thread a list of order members, or 0 where the log is there and its order is not.

local out = {}
for i = 1, #KEYS, 2 do
  local order, found = KEYS[i], {}
  each_namespace(order, function(_, place)
    found[#found + 1] = newest(order, place)
  end)
  if not redis.call('ZSCORE', order, '') and redis.call('EXISTS', KEYS[i + 1]) == 1 then
    found = 0
  end
  out[#out + 1] = found
end
return out
