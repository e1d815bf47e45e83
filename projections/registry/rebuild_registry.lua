-- Folds a page of a partition's feed into staged views, and after the last page puts these in place of the partition's views. The
-- staged views begin as the record of the trimmed part of the feed.
--
-- Preludes: eventlog/names, eventlog/pointers.
-- KEYS: 1 feed; 2 threads; 3 runs; 4 expiries; 5, 6, 7 staged threads, runs, expiries; 8 trimmed; 9 past threads; 10 past runs.
-- ARGV: 1 entry id after which the page begins, '' for the start; 2 most pointers; 3 seconds after which staged views expire; 4 '1'
--   to put the views in place if no pointer is left. An expired thread leaves no trace in the feed: the caller removes such threads
--   from the staged views before it passes '1'.
-- Reply: {last entry id that was folded, or '' to start over; 1 if no pointer is left; 1 if the views are in place}; {'lost', 0, 0} if
--   the record of the trimmed part is gone; {'foreign', entry id, 0} if an entry is no pointer.
-- Guarantees: readers find the old views or the new ones. A call that is repeated after the views are in place changes nothing.

local feed, expiries = KEYS[1], KEYS[4]
local staged_threads, staged_runs, staged_expiries = KEYS[5], KEYS[6], KEYS[7]
local trimmed_key, past_threads, past_runs = KEYS[8], KEYS[9], KEYS[10]
local last, most, stage_seconds, store = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'

-- Whether the three views that begin at a key have the member that says that they are whole.
local function whole(first)
  for i = first, first + 2 do
    if not redis.call('ZSCORE', KEYS[i], '') then
      return false
    end
  end
  return true
end

if last ~= '' and not whole(5) then -- an earlier call, sent twice, put them in place; or they expired
  redis.call('DEL', staged_threads, staged_runs, staged_expiries)
  local done = whole(2)
  return { done and last or '', 0, done and 1 or 0 }
end
local trimmed = redis.call('HGET', trimmed_key, 'id')
if trimmed and not (redis.call('ZSCORE', past_threads, '') and redis.call('ZSCORE', past_runs, '')) then
  return { 'lost', 0, 0 }
end
if trimmed and last ~= '' and comes_before(last, trimmed) then -- pointers that were not folded were trimmed meanwhile
  return { '', 0, 0 }
end
local entries = redis.call('XRANGE', feed, '(' .. (last == '' and (trimmed or '0-0') or last), '+', 'COUNT', most)
local pointers, runs_of = {}, {}
for i, entry in ipairs(entries) do
  pointers[i] = pointer_of(entry[2])
  runs_of[i] = runs_told(pointers[i])
  if not runs_of[i] then
    return { 'foreign', entry[1], 0 }
  end
end
if last == '' then
  redis.call('ZUNIONSTORE', staged_threads, 1, past_threads)
  redis.call('ZUNIONSTORE', staged_runs, 1, past_runs)
  redis.call('DEL', staged_expiries)
  last = trimmed or '0-0'
end
if #entries > 0 then
  last = entries[#entries][1]
end
fold_pointers(staged_threads, staged_runs, staged_expiries, entries, pointers, runs_of)
redis.call('ZADD', staged_threads, 0, '')
redis.call('ZADD', staged_runs, 0, '')
redis.call('ZADD', staged_expiries, 'inf', '')
if #entries == most or not store then
  for i = 5, 7 do
    redis.call('EXPIRE', KEYS[i], stage_seconds)
  end
  return { last, #entries < most and 1 or 0, 0 }
end
redis.call('ZUNIONSTORE', staged_expiries, 2, staged_expiries, expiries, 'AGGREGATE', 'MAX') -- adds ends that were noted meanwhile
for i = 2, 4 do
  redis.call('RENAME', KEYS[i + 3], KEYS[i])
  redis.call('PERSIST', KEYS[i])
end
return { last, 1, 1 }
