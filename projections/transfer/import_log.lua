-- Puts an imported log in place as it is, and announces it.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 8 staged log, 9 staged index, 10 staged order.
-- ARGV: 1 thread; 2 ttl in ms, 0 for none; 3 digest and 4 id of the log's last entry; then the runs that wrote to the thread, which
--   the feed is told as well, each behind its length.
-- Reply: {'ok'}; {'moved'} if what was staged is no longer whole; {'same'} if the thread has this very log, and nothing since; {'exists'} if it has
--   another, which is left as it is; {'stale'} if its index is not its own.

local state, why = open()
if why == 'stale' then
  return { why }
end
local views = shared_views(true, true)
if not (why or state.first) then
  redis.call('UNLINK', KEYS[8], KEYS[9], KEYS[10])
  return { state.d == ARGV[3] and state.l == ARGV[4] and 'same' or 'exists' }
end

-- From here on it writes.

local own = { LOG, INDEX, ORDER }
LOG, INDEX, ORDER = KEYS[8], KEYS[9], KEYS[10]
local imported = open()
if not imported or imported.first or imported.d ~= ARGV[3] then
  return { 'moved' }
end
local runs = {}
for i = 5, #ARGV do
  runs[#runs + 1] = counted(ARGV[i])
end
announce(imported, 0, views, { 'imported', '', '', '', '', '', '', '', table.concat(runs) }, true)
LOG, INDEX, ORDER = own[1], own[2], own[3]
for i, key in ipairs(own) do -- keys of the thread that outlived a lost log are replaced
  redis.call('RENAME', KEYS[7 + i], key)
  redis.call('PERSIST', key)
end
if redis.call('ZSCORE', RUNS, '') then
  for i = 5, #ARGV do
    remember_run(RUNS, THREAD, ARGV[i])
  end
end
keep_alive(tonumber(ARGV[2]), -1, {})
if tonumber(ARGV[2]) == 0 then
  never_expires()
end
return { 'ok' }
