-- Finds the newest checkpoint of every namespace of some threads of one partition.
--
-- KEYS: order key and log of each thread, in turn.
-- Reply: for each thread a list of order members, or 0 where the log is there and its order is not.

local out = {}
for i = 1, #KEYS, 2 do
  local order = KEYS[i]
  local found = {}
  local member = redis.call('ZRANGEBYLEX', order, '[c', '(d', 'LIMIT', 0, 1)[1]
  while member do
    local at, zero = 2, nil
    repeat
      zero = string.find(member, '\0', at, true)
      at = zero + 2
    until string.byte(member, zero + 1) ~= 255
    local place = string.sub(member, 1, zero)
    found[#found + 1] = redis.call('ZREVRANGEBYLEX', order, '(' .. place .. '\255', '[' .. place, 'LIMIT', 0, 1)[1]
    member = redis.call('ZRANGEBYLEX', order, '(' .. place .. '\255', '(d', 'LIMIT', 0, 1)[1]
  end
  if not redis.call('ZSCORE', order, '') and redis.call('EXISTS', KEYS[i + 1]) == 1 then
    found = 0
  end
  out[#out + 1] = found
end
return out
