-- Finds the newest checkpoint in a range of ids of every namespace, or of one, of some threads of one partition.
--
-- Preludes: eventlog/names.
-- KEYS: order and log of each thread, in turn.
-- ARGV: 1 most namespaces to look at; 2 sort key of a namespace of the first thread after which to begin, '' for its start; 3 sort key of
--   the only namespace that is wanted, '' for all; ids in the encoding that sorts: 4 the least in the range, '' for any; 5 the one that
--   ends the range and is not in it, '' for none.
-- Reply: for each thread a list of order members, {''} if all its checkpoints are out of the range, or 0 if its log exists and its order
--   does not; the sort key of a namespace, if the bound was reached: the last of these threads has more after it, and the threads after
--   that one are left out; else ''.
-- Guarantees: writes nothing.

local left, after, only = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local least, ends_at = ARGV[4], ARGV[5] == '' and '\255' or ARGV[5]
local out = {}

local function newest_in_range(order, ns_key)
  return redis.call('ZREVRANGEBYLEX', order, '(c' .. ns_key .. ends_at, '[c' .. ns_key .. least, 'LIMIT', 0, 1)[1]
end

for i = 1, #KEYS, 2 do
  if left <= 0 then
    break
  end
  local order, log = KEYS[i], KEYS[i + 1]
  local found, has_any, more = {}, false, nil
  if only ~= '' then
    found[1] = newest_in_range(order, only)
    has_any = found[1] or newest(order, only)
  else
    left, more = each_namespace(order, after, left, function(_, ns_sort_key)
      found[#found + 1] = newest_in_range(order, ns_sort_key)
      has_any = true
    end)
  end
  if has_any and not found[1] then
    found[1] = ''
  end
  if not redis.call('ZSCORE', order, '') and redis.call('EXISTS', log) == 1 then
    found, more = 0, nil
  end
  out[#out + 1], after = found, ''
  if more then
    return { out, more }
  end
end
return { out, '' }
