-- Folds a page of a partition's feed into staged views, and after the last page puts these in place of the partition's views. The
-- staged views begin as the record of the trimmed part of the feed.
--
-- Preludes: eventlog/names, eventlog/pointers, eventlog/stream_pages.
-- KEYS: 1 feed; 2 threads; 3 runs; 4 expiries; 5, 6 staged threads, runs; 7 trimmed; 8 past threads; 9 past runs; 10, 11 old threads, runs.
-- ARGV: 1 where to go on, as the last reply said, '' to begin; 2 most pointers; 3 seconds after which staged views expire; 4 '1' to put
--   the views in place if no pointer is left. An expired thread leaves no trace in the feed: the caller removes such threads from the
--   staged views, and notes the ends of others in the view of expiries, before it passes '1'; 5 members of the record of the trimmed part to copy in one call.
-- Reply: {where to go on, or '' to start over; 1 if no pointer is left; 1 if the views are in place}; {'lost', 0, 0} if
--   the record of the trimmed part is gone; {'foreign', entry id, 0} if an entry is no pointer.
--   On a server that uses libc's allocator, the views that were replaced become the old ones, which the caller removes in steps. There
--   the background free of a large view would hold up a later command for as long.
-- Guarantees: readers find the old views or the new ones. A call that is repeated after the views are in place changes nothing.

local feed = KEYS[1]
local staged_threads, staged_runs = KEYS[5], KEYS[6]
local trimmed_key, past_threads, past_runs = KEYS[7], KEYS[8], KEYS[9]
local last, most, stage_seconds, store = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4] == '1'

-- Whether the views from one key to another have the member that says that they are whole.
local function whole(first, final)
  for i = first, final do
    if not redis.call('ZSCORE', KEYS[i], '') then
      return false
    end
  end
  return true
end

-- The reply while the staged views are not in place.
local function go_on(at, ended)
  for i = 5, 6 do
    redis.call('EXPIRE', KEYS[i], stage_seconds)
  end
  return { at, ended, 0 }
end

if last ~= '' and not whole(5, 6) then -- an earlier call, sent twice, put them in place; or they expired
  redis.call('UNLINK', staged_threads, staged_runs)
  local done = whole(2, 4)
  return { done and last or '', 0, done and 1 or 0 }
end
local trimmed = redis.call('HGET', trimmed_key, 'id')
if trimmed and not (redis.call('ZSCORE', past_threads, '') and redis.call('ZSCORE', past_runs, '')) then
  return { 'lost', 0, 0 }
end
local copied_for, number, cursor = string.match(last, '^copy (%S+) (%d) (%d+)$') -- while it copies the record
if trimmed and last ~= '' and comes_before(copied_for or last, trimmed) then -- pointers that were not folded were trimmed meanwhile
  return { '', 0, 0 }
end
if last == '' then
  redis.call('UNLINK', staged_threads, staged_runs)
  redis.call('ZADD', staged_threads, 0, '')
  redis.call('ZADD', staged_runs, 0, '')
  last = trimmed or '0-0'
  if trimmed then
    copied_for, number, cursor = trimmed, '5', '0'
  end
end
local left = tonumber(ARGV[5])
while copied_for do
  local page = redis.call('ZSCAN', KEYS[tonumber(number) + 3], cursor, 'COUNT', left)
  for i = 1, #page[2], 2 do
    redis.call('ZADD', KEYS[tonumber(number)], page[2][i + 1], page[2][i])
  end
  left, cursor, last = left - #page[2] / 2, page[1], copied_for
  if cursor == '0' and number == '5' then
    number = '6'
  elseif cursor == '0' then
    copied_for = nil
  end
  if copied_for and left <= 0 then
    return go_on('copy ' .. copied_for .. ' ' .. number .. ' ' .. cursor, 0)
  end
end

local entries, more = page_of(feed, last, most, FOLD_BYTES, 256, weight_of)
local pointers, runs_of = {}, {}
for i, entry in ipairs(entries) do
  pointers[i] = pointer_of(entry[2])
  runs_of[i] = runs_told(pointers[i])
  if not runs_of[i] then
    redis.call('UNLINK', staged_threads, staged_runs)
    return { 'foreign', entry[1], 0 }
  end
end
local count, ending = affordable(staged_runs, pointers, runs_of)
if count > 0 then
  last = entries[count][1]
end
fold_pointers(staged_threads, staged_runs, entries, pointers, runs_of, count)
if ending and count == 0 then
  forget_runs(staged_runs, ending, 1)
end
if count < #entries or more == 1 or not store then
  return go_on(last, (count == #entries and more == 0) and 1 or 0)
end
local memory = redis.pcall('INFO', 'memory')
local is_libc = type(memory) == 'string' and string.find(memory, 'mem_allocator:libc', 1, true)
redis.call('ZADD', KEYS[4], 'inf', '')
for i = 2, 3 do
  if is_libc and redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[i + 8])
    redis.call('EXPIRE', KEYS[i + 8], stage_seconds)
  end
  redis.call('UNLINK', KEYS[i]) -- a rename would free it at once
  redis.call('RENAME', KEYS[i + 3], KEYS[i])
  redis.call('PERSIST', KEYS[i])
end
return { last, 1, 1 }
