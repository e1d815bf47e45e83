-- Takes entries out of the front of a partition's feed, once what they say of its threads is kept elsewhere.
--
-- Preludes: eventlog/names, eventlog/pointers.
-- KEYS: 1 feed, 2 trimmed, 3 positions, 4 past threads, 5 past runs, 6 threads.
-- ARGV: 1 ms for which an entry is kept, 2 most entries that are kept, '' each for no such bound: an entry that is beyond one of them
--   may go, once every group is done with it; 3 most entries to take.
-- Reply: {'ok', number taken, the groups that hold entries back, each with how many of these it needs
--   still and the age in ms of the oldest; '1' if calling again takes more, else ''}. What is held back is looked for among as many
--   entries as one call may take; a group that is further is not named.
--   {'foreign', entry id} if an entry is no pointer, {'lost'} if what was kept of those taken before is gone; nothing written.
--
-- Its first write is one that a full server takes too, since it makes room.

local FEED, TRIMMED, POSITIONS, THREADS, RUNS, LIVE = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local SAMPLE = 1000 -- threads kept of the past that one call looks at for those that expired
local most = tonumber(ARGV[3])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = ARGV[1] == '' and 0 or now - tonumber(ARGV[1])
local length = redis.call('XLEN', FEED)
local too_many = ARGV[2] == '' and 0 or math.max(0, length - tonumber(ARGV[2]))

local function ms_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

-- Whether an entry, the `place`th of the feed, is beyond the bounds.
local function may_go(entry, place)
  return place <= too_many or ms_of(entry) < oldest
end

-- The groups by name, and the position of the slowest, nil if there is none. One that cannot be read holds everything.
local function positions()
  local found, slowest = {}, nil
  local flat = redis.call('HGETALL', POSITIONS)
  for i = 1, #flat, 2 do
    local position = string.match(flat[i + 1], '^%d+%-%d+$') or '0-0'
    found[#found + 1] = { flat[i], position }
    if not slowest or comes_before(position, slowest) then
      slowest = position
    end
  end
  return found, slowest
end

-- The front of the feed, up to an entry that is not to be taken: no more than is needed to see what may go.
local function front()
  local first = redis.call('XRANGE', FEED, '-', '+', 'COUNT', 1)
  if not first[1] or not may_go(first[1], 1) then
    return first
  end
  return redis.call('XRANGE', FEED, '-', '+', 'COUNT', 1 + (ARGV[1] == '' and math.min(most, too_many) or most))
end

-- Which of `rest`, entries behind the first `before` of the feed, are beyond the bounds and needed still: how many, and by whom.
local function held_back(groups, rest, before)
  local beyond = {}
  for i, entry in ipairs(rest) do
    if may_go(entry, before + i) then
      beyond[#beyond + 1] = entry
    end
  end
  local unseen = math.max(0, too_many - before - #rest)
  local out = {}
  for _, group in ipairs(groups) do
    for i, entry in ipairs(beyond) do
      if comes_before(group[2], entry[1]) then
        out[#out + 1] = group[1]
        out[#out + 1] = #beyond - i + 1 + unseen
        out[#out + 1] = math.max(0, now - ms_of(entry))
        break
      end
    end
  end
  return out
end

-- Threads kept of the past that expired since: their end leaves no trace in the feed. Chosen by chance where there are many of them.
local function ended()
  local out = {}
  if redis.call('ZSCORE', LIVE, '') and redis.call('ZCARD', THREADS) > 2 * redis.call('ZCARD', LIVE) + 1000 then
    local some = redis.call('ZRANDMEMBER', THREADS, SAMPLE)
    local live = redis.call('ZMSCORE', LIVE, unpack(some))
    for i, member in ipairs(some) do
      if not live[i] then
        out[#out + 1] = string.sub(member, 2)
      end
    end
  end
  return out
end

local past = redis.call('HMGET', TRIMMED, 'id', 'n')
local whole = redis.call('ZSCORE', THREADS, '') and redis.call('ZSCORE', RUNS, '')
if past[1] and not whole then
  return { 'lost' }
end
local groups, slowest = positions()
local entries = front()
local pointers, told, taken = {}, {}, 0
while taken < most do
  local entry = entries[taken + 1]
  if not entry or not may_go(entry, taken + 1) or (slowest and comes_before(slowest, entry[1])) then
    break
  end
  taken = taken + 1
  pointers[taken] = pointer_of(entry[2])
  told[taken] = runs_told(pointers[taken])
  if not told[taken] then
    return { 'foreign', entry[1] }
  end
end
local following = entries[taken + 1]
local holders, more = {}, ''
if following and may_go(following, taken + 1) then
  if slowest and comes_before(slowest, following[1]) then
    local rest = taken == 0 and entries or redis.call('XRANGE', FEED, following[1], '+', 'COUNT', most)
    holders = held_back(groups, rest, taken)
  else
    more = '1'
  end
end
local forgotten = ended()
local total = string.format('%.0f', tonumber(past[2] or 0) + taken)

-- From here on it writes.

if taken > 0 then
  redis.call('XTRIM', FEED, 'MAXLEN', '=', length - taken)
  redis.call('ZADD', THREADS, 0, '')
  redis.call('ZADD', RUNS, 0, '')
  fold_pointers(THREADS, RUNS, nil, entries, pointers, told)
  redis.call('HSET', TRIMMED, 'id', entries[taken][1], 'n', total, 'check', pointer_check(entries[taken][2]))
end
for _, thread in ipairs(forgotten) do
  forget_thread(THREADS, RUNS, nil, thread)
end
return { 'ok', taken, holders, more }
