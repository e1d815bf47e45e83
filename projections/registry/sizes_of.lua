-- Tells how large some threads of a partition are, and when they end. It only reads.
--
-- Preludes: eventlog/names.
-- KEYS: log, index and order of each thread.
-- Reply: for each {entries of its log, checkpoints or -1 where the order is missing, namespaces, ms until its log expires (-1: never,
--   -2: there is none)}.

local out = {}
for i = 1, #KEYS, 3 do
  local order, found = KEYS[i + 2], {}
  each_namespace(order, function(ns)
    found[#found + 1] = ns
  end)
  local whole = redis.call('ZSCORE', order, '')
  out[#out + 1] = {
    redis.call('XLEN', KEYS[i]), whole and redis.call('ZLEXCOUNT', order, '[c', '(d') or -1, found, redis.call('PTTL', KEYS[i]),
  }
end
return out
