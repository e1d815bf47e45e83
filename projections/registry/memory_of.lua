-- Tells how many bytes some keys take. It only reads.
--
-- KEYS: the keys.
-- Reply: for each its bytes, 0 where there is none, -1 where the user may not ask.

local out = {}
for i, key in ipairs(KEYS) do
  local bytes = redis.pcall('MEMORY', 'USAGE', key)
  out[i] = type(bytes) == 'table' and -1 or bytes or 0
end
return out
