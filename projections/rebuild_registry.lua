-- Folds a stretch of a partition's feed into staged views, and at its end puts them in the place of those the partition has.
--
-- KEYS: 1 feed; 2 threads, 3 runs, 4 expiries; 5, 6, 7 the same, staged. Prelude: names.lua.
-- ARGV: 1 entry id to begin after, '' for the start; 2 most pointers; 3 seconds after which what is staged is dropped; 4 '1' to put
--   the views in place when no pointer is left. A thread that expired leaves no trace in the feed: the caller takes those out of
--   what is staged before it asks for that.
-- Reply: last entry id folded, '' to begin again, '1' if no pointer is left, '1' if the views are in place.

local feed, threads, runs, expiries = KEYS[1], KEYS[5], KEYS[6], KEYS[7]

local function fold(id, pointer)
  local thread = pointer.thread
  if pointer.kind == 'deleted' then
    forget_thread(threads, runs, expiries, thread)
  elseif pointer.kind ~= 'writes' or redis.call('ZSCORE', threads, 't' .. thread) then
    redis.call('ZADD', threads, string.match(id, '^%d+'), 't' .. thread)
    if pointer.kind == 'copied' then
      local at = 1
      while at <= #pointer.run do
        local size, from = string.match(pointer.run, '^(%d+):()', at)
        remember_run(runs, thread, string.sub(pointer.run, from, from + size - 1))
        at = from + size
      end
    elseif pointer.run ~= '' then
      remember_run(runs, thread, pointer.run)
    end
  end
end

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
local entries = redis.call('XRANGE', feed, last == '' and '-' or '(' .. last, '+', 'COUNT', most)
for _, entry in ipairs(entries) do
  local pointer = {}
  for i = 1, #entry[2], 2 do
    pointer[entry[2][i]] = entry[2][i + 1]
  end
  last = entry[1]
  fold(last, pointer)
end
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
