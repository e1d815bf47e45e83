-- Folds a stretch of a log into an index and an order that are being laid ready, by the rules of `fold.py`.
-- The same stretch again, right away, changes nothing.
--
-- Preludes: eventlog/names.
-- KEYS: 1 staged index; 2 staged order.
-- ARGV: 1 seconds after which they are dropped; 2 the last entry of the stretch before, '' if there was none; 3 the last entry of this;
--   4 number of index fields; 5 number of members of writes; then these: field and value in turn; members; and what happened to
--   checkpoints, in its order: 'c' (put), 'd' (dropped) or 'h' (hidden), the checkpoint's place, and of 'c' its entry id.
-- Reply: number of listed checkpoints; -1 if what was laid ready before has dropped itself.

local INDEX, ORDER, BEFORE = KEYS[1], KEYS[2], ARGV[2]
local CHUNK, FIRST = 1000, 6
local fields, written = tonumber(ARGV[4]), tonumber(ARGV[5])

local reached = redis.call('HGET', INDEX, 'l') or ''
local marked = redis.call('ZSCORE', ORDER, '')
if (reached ~= BEFORE and reached ~= ARGV[3]) or (reached ~= '' and not marked) then
  return -1
end
for first = FIRST, FIRST - 1 + 2 * fields, CHUNK do
  redis.call('HSET', INDEX, unpack(ARGV, first, math.min(first + CHUNK - 1, FIRST - 1 + 2 * fields)))
end
redis.call('ZADD', ORDER, 0, '')
local added = {}
for i = FIRST + 2 * fields, FIRST - 1 + 2 * fields + written do
  added[#added + 1], added[#added + 2] = 0, ARGV[i]
  if #added == CHUNK then
    redis.call('ZADD', ORDER, unpack(added))
    added = {}
  end
end
if #added > 0 then
  redis.call('ZADD', ORDER, unpack(added))
end

local any_hidden = redis.call('ZLEXCOUNT', ORDER, '[h', '(i') > 0

-- Takes the member of a checkpoint out; the entry that it had.
local function taken(letter, place)
  local prefix = letter .. place
  local member = redis.call('ZRANGEBYLEX', ORDER, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
  if member then
    redis.call('ZREM', ORDER, member)
    return string.sub(member, #prefix + 1)
  end
end

local at = FIRST + 2 * fields + written
while at < #ARGV do
  local what, place = ARGV[at], ARGV[at + 1]
  local had = taken('c', place)
  if any_hidden and (what ~= 'h' or had) then
    taken('h', place)
  end
  if what == 'c' then
    redis.call('ZADD', ORDER, 0, 'c' .. place .. ARGV[at + 2])
  elseif what == 'h' and had then
    redis.call('ZADD', ORDER, 0, 'h' .. place .. had)
    any_hidden = true
  end
  at = at + (what == 'c' and 3 or 2)
end

local hidden = redis.call('ZLEXCOUNT', ORDER, '[h', '(i')
if hidden > 0 then
  redis.call('HSET', INDEX, 'h', hidden)
else
  redis.call('HDEL', INDEX, 'h')
end
redis.call('EXPIRE', INDEX, ARGV[1])
redis.call('EXPIRE', ORDER, ARGV[1])
return redis.call('ZLEXCOUNT', ORDER, '[c', '(d')
