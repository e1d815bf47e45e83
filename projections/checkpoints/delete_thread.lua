-- Deletes every key of a thread, and leaves a tombstone in the feed.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 8... heads of the namespaces that are named.
-- ARGV: 1 thread; 2 digest of the log that is to be deleted, '' for any;
--   3 '', or 'anyway' to delete a log although its index is not right, or 'make room' to delete all but the log's last entry, on a
--   server too full for a tombstone; 4 audit, '' for none; 5 '1' if the heads of all other namespaces were deleted; 6... namespaces.
-- Reply: {'ok', 1 if runs of the thread are left for `forget_runs.lua`, else 0}; {'room', 1 if the same call has to be made again} after
--   'make room'; {'none', 1 or 0 as of 'ok'} if there is no such thread; {'moved'} if the log has moved on; {'namespaces', those of the
--   thread} if it has checkpoints in others than those named, {'many'} if these are too many for one call; {'stale'} if the index is not
--   right.
-- Guarantees: writes nothing with any other reply than 'ok' and 'room', but forgets a thread that does not exist.

local only, mode, audit, is_cleared = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local NAMESPACES = 1000 -- the most that one call deletes
local ENTRIES = 5000 -- of a log, the most that one call trims

local state, why = open()
if why == 'stale' and mode == '' then
  return { 'stale' }
end
if state and state.first then
  return { 'none', forget(THREAD, 1) }
end
if only ~= '' and state and state.d ~= only then
  return { 'moved' }
end

if not is_cleared then
  local named, found, are_all_named = {}, {}, true
  for i = 6, #ARGV do
    named[ARGV[i]] = true
  end
  local _, more = each_namespace(ORDER, '', NAMESPACES, function(ns)
    found[#found + 1] = ns
    are_all_named = are_all_named and named[ns]
  end)
  if more then
    return { 'many' }
  end
  if not are_all_named then
    return { 'namespaces', found }
  end
end

local n, digest = '0', ''
if state then
  n, digest = string.format('%.0f', state.n), state.d
else
  local last = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]
  if last then
    n, digest = field_of(last[2], 'n') or n, field_of(last[2], 'd') or digest
  end
end

shared_views(true, true) -- a key of another type is an error before anything is written

local function unlink_views()
  redis.call('UNLINK', INDEX, ORDER)
  for i = 8, #KEYS do
    redis.call('UNLINK', KEYS[i])
  end
end

-- From here on it writes.

if mode == 'make room' then
  local kept = math.max(1, redis.call('XLEN', LOG) - ENTRIES)
  redis.call('XTRIM', LOG, 'MAXLEN', kept)
  unlink_views()
  return { 'room', kept > 1 and 1 or 0 }
end
redis.call('XADD', FEED, '*', 'thread', THREAD, 'id', '', 'seq', n, 'digest', digest, 'audit', audit, 'kind', 'deleted', 'ns', '',
  'checkpoint', '', 'source', '', 'step', '', 'run', '', 'channels', '', 'nodes', '')
redis.call('UNLINK', LOG)
unlink_views()
return { 'ok', forget(THREAD, 1) }
