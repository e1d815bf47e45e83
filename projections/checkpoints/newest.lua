-- Finds the newest checkpoint of every namespace of some threads of one partition.
--
-- Preludes: eventlog/names.
-- KEYS: order and log of each thread, in turn.
-- ARGV: none.
-- Reply: for each thread a list of order members, or 0 if its log exists and its order does not.
-- Guarantees: writes nothing.

local out = {}
for i = 1, #KEYS, 2 do
  local order, log = KEYS[i], KEYS[i + 1]
  local found = {}
  each_namespace(order, function(_, ns_sort_key)
    found[#found + 1] = newest(order, ns_sort_key)
  end)
  if not redis.call('ZSCORE', order, '') and redis.call('EXISTS', log) == 1 then
    found = 0
  end
  out[#out + 1] = found
end
return out
