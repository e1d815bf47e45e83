-- Takes entries from the front of a partition's feed, and keeps the threads and runs that they name.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/stream_pages.
-- KEYS: 1 feed, 2 trimmed, 3 positions, 4 past threads, 5 past runs, 6 threads.
-- ARGV: 1 ms for which entries are kept, 2 number of entries that are kept, '' each for no such bound; 3 most entries to take. An entry beyond
--   one of the bounds may go, once every group is done with it.
-- Reply: {'ok', number taken, the groups that hold entries back, 1 if another call takes more, else 0}. Of each group: name, number of
--   entries beyond the bounds that it still needs, and age in ms of the oldest. A group is named if the first entry that it needs is among
--   as many entries as one call may take.
--   Nothing written: {'foreign', entry id} if an entry is no pointer; {'damaged'} if `trimmed` is no such record; {'lost'} if the
--   threads and runs of entries trimmed before are gone.
-- Guarantees: the first write is one that a full server takes, since it frees memory.

local feed, trimmed, positions_key, past_threads, past_runs, live_threads = unpack(KEYS, 1, 6)
local age, count, most = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) -- nil for no bound
local SAMPLE = 1000 -- threads of the past that one call compares with those that live
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local oldest = age and now - age or 0
local length = redis.call('XLEN', feed)
local too_many = count and math.max(0, length - count) or 0

local function ms_of(entry)
  return tonumber(string.match(entry[1], '^%d+'))
end

-- Whether an entry is beyond the bounds, by its number in the feed.
local function may_go(entry, number)
  return number <= too_many or ms_of(entry) < oldest
end

-- The groups with their positions, and the earliest position, nil without groups. A position that cannot be read keeps the whole feed.
local function positions()
  local found, earliest = {}, nil
  local flat = redis.call('HGETALL', positions_key)
  for i = 1, #flat, 2 do
    local position = string.match(flat[i + 1], '^%d+%-%d+$') or '0-0'
    found[#found + 1] = { flat[i], position }
    if not earliest or comes_before(position, earliest) then
      earliest = position
    end
  end
  return found, earliest
end

-- The front of the feed, with one entry more than may go: no more than is needed to see that. And 1 if there may be more, else 0.
local function front()
  local first = redis.call('XRANGE', feed, '-', '+', 'COUNT', 1)
  if not first[1] or not may_go(first[1], 1) then
    return first, 0
  end
  return page_of(feed, '', 1 + (age and most or math.min(most, too_many)), FOLD_BYTES, 256, weight_of)
end

-- The groups that need entries of `rest` which are beyond the bounds; `before` entries of the feed come before `rest`.
local function holders_of(groups, rest, before)
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

-- Threads of the past that expired since, which the feed may not say. Where the past has many more threads than live, looks at a sample.
local function expired()
  local out = {}
  if redis.call('ZSCORE', live_threads, '') and redis.call('ZCARD', past_threads) > 2 * redis.call('ZCARD', live_threads) + 1000 then
    local some = redis.call('ZRANDMEMBER', past_threads, SAMPLE)
    local live = redis.call('ZMSCORE', live_threads, unpack(some))
    for i, member in ipairs(some) do
      if not live[i] then
        out[#out + 1] = string.sub(member, 2)
      end
    end
  end
  return out
end

local past = redis.call('HMGET', trimmed, 'id', 'n')
if past[1] and not (redis.call('ZSCORE', past_threads, '') and redis.call('ZSCORE', past_runs, '')) then
  return { 'lost' }
end
local trimmed_before = tonumber(string.match(past[2] or '0', '^%d+$'))
if not trimmed_before or not string.match(past[1] or '0-0', '^%d+%-%d+$') then
  return { 'damaged' }
end
local groups, earliest = positions()
local entries, goes_on = front()
local pointers, runs, taken = {}, {}, 0
while taken < most do
  local entry = entries[taken + 1]
  if not entry or not may_go(entry, taken + 1) or (earliest and comes_before(earliest, entry[1])) then
    break
  end
  taken = taken + 1
  pointers[taken] = pointer_of(entry[2])
  runs[taken] = runs_told(pointers[taken])
  if not runs[taken] then
    return { 'foreign', entry[1] }
  end
end
local looked_at = taken
local ending
taken, ending = affordable(past_runs, pointers, runs)
local following = entries[taken + 1]
local holders, more = {}, 0
if taken < looked_at or (not following and goes_on == 1) then
  more = 1
elseif following and may_go(following, taken + 1) then
  if earliest and comes_before(earliest, following[1]) then
    holders = holders_of(groups, taken == 0 and entries or (page_of(feed, entries[taken][1], most, FOLD_BYTES, 256, weight_of)), taken)
  else
    more = 1
  end
end
local forgotten = expired()

-- All writes follow.

if taken > 0 then
  redis.call('XTRIM', feed, 'MAXLEN', '=', length - taken)
  redis.call('ZADD', past_threads, 0, '')
  redis.call('ZADD', past_runs, 0, '')
  fold_pointers(past_threads, past_runs, entries, pointers, runs, taken)
  local n = string.format('%.0f', trimmed_before + taken)
  redis.call('HSET', trimmed, 'id', entries[taken][1], 'n', n, 'check', pointer_check(entries[taken][2]))
end
local left = FOLD
if ending and taken == 0 then -- the feed still says that it ends
  forget_runs(past_runs, ending, 1)
  left = 0
end
for _, thread in ipairs(forgotten) do
  if left <= 0 then
    break
  end
  local more_runs, count = forget_runs(past_runs, thread, 1)
  left = left - 1 - count
  if more_runs == 0 then
    redis.call('ZREM', past_threads, 't' .. thread)
  end
end
return { 'ok', taken, holders, more }
