-- Deletes every key of a thread, and leaves a tombstone in the feed.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 8... heads of the namespaces named.
-- ARGV: 1 thread; 2 digest of the log that is to be deleted, '' for any; 3 'anyway' to delete a log whose index is
--   not its own, 'make room' to take all but the last entry, where the server is too full for a tombstone; 4 audit, '' for none; 5... namespaces.
-- Reply: {'ok'}; {'room'} when that is done; {'none'} if there is no such thread; {'namespaces', those of the thread} if it has checkpoints in others than those named,
--   nothing deleted; {'moved'} if the log has moved on; {'stale'} if the namespaces are not known.

local state, why = open()
if why == 'stale' and ARGV[3] == '' then
  return { 'stale' }
end
if state and state.first then
  forget(THREAD)
  return { 'none' }
end
if ARGV[2] ~= '' and state and state.d ~= ARGV[2] then
  return { 'moved' }
end

local named, found, all = {}, {}, true
for i = 5, #ARGV do
  named[ARGV[i]] = true
end
each_namespace(ORDER, function(ns)
  found[#found + 1] = ns
  all = all and named[ns]
end)
if not all then
  return { 'namespaces', found }
end

local n, digest = '0', ''
if state then
  n, digest = string.format('%.0f', state.n), state.d
else
  local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  for i = 1, last and #last[2] or 0, 2 do
    if last[2][i] == 'n' then
      n = last[2][i + 1]
    elseif last[2][i] == 'd' then
      digest = last[2][i + 1]
    end
  end
end

shared_views(true, true) -- a key of another type is an error before anything is written

-- From here on it writes.

if ARGV[3] == 'make room' then
  redis.call('XTRIM', LOG, 'MAXLEN', 1)
  for i = 2, #KEYS do
    if i <= 3 or i >= 8 then
      redis.call('UNLINK', KEYS[i])
    end
  end
  return { 'room' }
end
redis.call('XADD', FEED, '*', 'thread', THREAD, 'id', '', 'seq', n, 'digest', digest, 'audit', ARGV[4], 'kind', 'deleted', 'ns', '',
  'checkpoint', '', 'source', '', 'step', '', 'run', '', 'channels', '', 'nodes', '')
for i = 1, #KEYS do
  if i <= 3 or i >= 8 then
    redis.call('UNLINK', KEYS[i])
  end
end
forget(THREAD)
return { 'ok' }
