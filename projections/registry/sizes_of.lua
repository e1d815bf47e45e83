-- Reads how large some threads of a partition are, and when they expire. Only reads.
--
-- Preludes: eventlog/names.
-- KEYS: log, index and order of each thread in turn.
-- ARGV: 1 most namespaces to look at; 2 sort key of a namespace of the first thread after which to begin, '' for its start.
-- Reply: for each thread {entries of its log, checkpoints or -1 if the order is missing, namespaces, ms until the log expires (-1:
--   never, -2: there is no log)}; the sort key of a namespace, if the bound was reached: the last of these threads has more after it,
--   and the threads after that one are left out; else ''.

local left, after = tonumber(ARGV[1]), ARGV[2]
local out = {}
for i = 1, #KEYS, 3 do
  if left <= 0 then
    break
  end
  local log, order, namespaces, more = KEYS[i], KEYS[i + 2], {}, nil
  left, more = each_namespace(order, after, left, function(ns)
    namespaces[#namespaces + 1] = ns
  end)
  local is_whole = redis.call('ZSCORE', order, '')
  local checkpoints = is_whole and redis.call('ZLEXCOUNT', order, '[c', '(d') or -1
  out[#out + 1], after = { redis.call('XLEN', log), checkpoints, namespaces, redis.call('PTTL', log) }, ''
  if more then
    return { out, more }
  end
end
return { out, '' }
