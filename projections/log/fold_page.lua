-- Folds a page of a log into a staged index and order, by the rules of `fold.py`.
--
-- Preludes: eventlog/names.
-- KEYS: 1 staged index; 2 staged order.
-- ARGV: 1 seconds after which they expire; 2 last entry of the page before, '' for none; 3 last entry of this page; 4 number of index
--   fields; 5 number of members of writes; then these: fields and values in turn; members; and the changes of checkpoints in log
--   order: 'c' (put), 'd' (dropped) or 'h' (hidden), the checkpoint's sort key, and for 'c' its entry id.
-- Reply: number of listed checkpoints; -1 if the staged keys have expired, or do not end with the page before.
-- Guarantees: the same call again changes nothing.

local INDEX, ORDER = KEYS[1], KEYS[2]
local seconds, page_before, last = ARGV[1], ARGV[2], ARGV[3]
local CHUNK = 1000 -- values in one command: Lua's unpack fails past some thousands
local fields_at = 6
local members_at = fields_at + 2 * tonumber(ARGV[4])
local changes_at = members_at + tonumber(ARGV[5])

local reached = redis.call('HGET', INDEX, 'l') or ''
local whole = redis.call('ZSCORE', ORDER, '')
if (reached ~= page_before and reached ~= last) or (reached ~= '' and not whole) then
  return -1
end
for first = fields_at, members_at - 1, CHUNK do
  redis.call('HSET', INDEX, unpack(ARGV, first, math.min(first + CHUNK, members_at) - 1))
end
redis.call('ZADD', ORDER, 0, '')
local added = {}
for i = members_at, changes_at - 1 do
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

-- Removes the member of a checkpoint, and returns its entry id.
local function take(letter, sort_key)
  local prefix = letter .. sort_key
  local member = redis.call('ZRANGEBYLEX', ORDER, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 1)[1]
  if member then
    redis.call('ZREM', ORDER, member)
    return string.sub(member, #prefix + 1)
  end
end

local at = changes_at
while at < #ARGV do
  local change, sort_key = ARGV[at], ARGV[at + 1]
  local had = take('c', sort_key)
  if any_hidden and (change ~= 'h' or had) then
    take('h', sort_key)
  end
  if change == 'c' then
    redis.call('ZADD', ORDER, 0, 'c' .. sort_key .. ARGV[at + 2])
  elseif change == 'h' and had then
    redis.call('ZADD', ORDER, 0, 'h' .. sort_key .. had)
    any_hidden = true
  end
  at = at + (change == 'c' and 3 or 2)
end

local hidden = redis.call('ZLEXCOUNT', ORDER, '[h', '(i')
if hidden > 0 then
  redis.call('HSET', INDEX, 'h', hidden)
else
  redis.call('HDEL', INDEX, 'h')
end
redis.call('EXPIRE', INDEX, seconds)
redis.call('EXPIRE', ORDER, seconds)
return redis.call('ZLEXCOUNT', ORDER, '[c', '(d')
