-- Reads how many bytes some keys occupy. Only reads.
--
-- KEYS: the keys.
-- Reply: for each key its bytes, 0 if the key does not exist, -1 if the user lacks the right to ask.

local out = {}
for i, key in ipairs(KEYS) do
  local bytes = redis.pcall('MEMORY', 'USAGE', key)
  out[i] = type(bytes) == 'table' and -1 or bytes or 0
end
return out
