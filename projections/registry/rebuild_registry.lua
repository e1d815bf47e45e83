-- Folds a stretch of a partition's feed into staged views, and at its end puts them in the place of those the partition has. They begin
-- as what is kept of the part of the feed that was trimmed.
--
-- Preludes: eventlog/names, eventlog/pointers.
-- KEYS: 1 feed; 2 threads, 3 runs, 4 expiries; 5, 6, 7 the same, staged; 8 trimmed, 9 past threads, 10 past runs.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most pointers; 3 seconds after which what is staged is dropped; 4 '1' to put
--   the views in place when no pointer is left. A thread that expired leaves no trace in the feed: the caller takes those out of
--   what is staged before it asks for that.
-- Reply: last entry id folded, '' to begin again, '1' if no pointer is left, '1' if the views are in place; 'lost' for the id if what
--   was kept of the trimmed part is gone; 'foreign', and which entry, if one is no pointer.

local feed, threads, runs, expiries = KEYS[1], KEYS[5], KEYS[6], KEYS[7]

-- Whether the three views that begin at a key have the mark of whole ones.
local function whole(first)
  for i = first, first + 2 do
    if not redis.call('ZSCORE', KEYS[i], '') then
      return false
    end
  end
  return true
end

local last, most = ARGV[1], tonumber(ARGV[2])
if last ~= '' and not whole(5) then -- put in place by an earlier call that was sent again, or dropped meanwhile
  redis.call('DEL', threads, runs, expiries)
  local done = whole(2)
  return { done and last or '', 0, done and 1 or 0 }
end
local trimmed = redis.call('HGET', KEYS[8], 'id')
if trimmed and not (redis.call('ZSCORE', KEYS[9], '') and redis.call('ZSCORE', KEYS[10], '')) then
  return { 'lost', 0, 0 }
end
if trimmed and last ~= '' and comes_before(last, trimmed) then -- what came next was taken out of the feed meanwhile
  return { '', 0, 0 }
end
local entries = redis.call('XRANGE', feed, '(' .. (last == '' and (trimmed or '0-0') or last), '+', 'COUNT', most)
local pointers, told = {}, {}
for i, entry in ipairs(entries) do
  pointers[i] = pointer_of(entry[2])
  told[i] = runs_told(pointers[i])
  if not told[i] then
    return { 'foreign', entry[1], 0 }
  end
end
if last == '' then
  redis.call('ZUNIONSTORE', threads, 1, KEYS[9])
  redis.call('ZUNIONSTORE', runs, 1, KEYS[10])
  redis.call('DEL', expiries)
  last = trimmed or '0-0'
end
if #entries > 0 then
  last = entries[#entries][1]
end
fold_pointers(threads, runs, expiries, entries, pointers, told)
redis.call('ZADD', threads, 0, '')
redis.call('ZADD', runs, 0, '')
redis.call('ZADD', expiries, 'inf', '')
if #entries == most or ARGV[4] ~= '1' then
  for i = 5, 7 do
    redis.call('EXPIRE', KEYS[i], ARGV[3])
  end
  return { last, #entries < most and 1 or 0, 0 }
end
redis.call('ZUNIONSTORE', expiries, 2, expiries, KEYS[4], 'AGGREGATE', 'MAX') -- what was set since it was staged
for i = 2, 4 do
  redis.call('RENAME', KEYS[i + 3], KEYS[i])
  redis.call('PERSIST', KEYS[i])
end
return { last, 1, 1 }
