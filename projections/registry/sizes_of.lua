-- Reads how large some threads of a partition are, and when they expire. Only reads.
--
-- Preludes: eventlog/names.
-- KEYS: log, index and order of each thread in turn.
-- Reply: for each thread {entries of its log, checkpoints or -1 if the order is missing, namespaces, ms until the log expires (-1:
--   never, -2: there is no log)}.

local out = {}
for i = 1, #KEYS, 3 do
  local log, order, namespaces = KEYS[i], KEYS[i + 2], {}
  each_namespace(order, function(ns)
    namespaces[#namespaces + 1] = ns
  end)
  local is_whole = redis.call('ZSCORE', order, '')
  local checkpoints = is_whole and redis.call('ZLEXCOUNT', order, '[c', '(d') or -1
  out[#out + 1] = { redis.call('XLEN', log), checkpoints, namespaces, redis.call('PTTL', log) }
end
return out
