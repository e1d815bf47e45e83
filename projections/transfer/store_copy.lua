-- Puts a copied log in place, closes it with the event that says where it came from, and announces it.
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua, of the target; 8 staged log, 9 staged index, 10 staged order.
-- ARGV: 1 target thread; 2 ttl in ms, 0 for none; 3 kind; 4 content digest, 5 number of fields, and fields of the event;
--   then the runs that wrote to the thread, which the feed is told as well, each behind its length.
-- Reply: {'ok'}; {'moved'} if what was staged is no whole log; {'same'} if the target is this very copy, and nothing since; {'exists'} if the target has a log already, which is left as it is; {'stale'} if its index is not its own.

-- Whether an entry has the kind, schema version and envelope of these fields.
local function same_event(entry, fields)
  for i = 1, 6 do
    if entry[i + 4] ~= fields[i] then
      return false
    end
  end
  return true
end

local state, why = open()
if why == 'stale' then
  return { why }
end
local views = shared_views(true, true)
local size = tonumber(ARGV[5])
local fields = { unpack(ARGV, 6, 5 + size) }
if not (why or state.first) then
  redis.call('UNLINK', KEYS[8], KEYS[9], KEYS[10])
  local entry = redis.call('XRANGE', LOG, state.l, state.l)[1]
  return { entry and same_event(entry[2], fields) and 'same' or 'exists' }
end

-- From here on it writes.

local own = { LOG, INDEX, ORDER }
LOG, INDEX, ORDER = KEYS[8], KEYS[9], KEYS[10]
local copied = open()
if not copied or copied.first then
  return { 'moved' }
end
local runs = {}
for i = 6 + size, #ARGV do
  runs[#runs + 1] = counted(ARGV[i])
end
announce(copied, 1, views, { ARGV[3], '', '', '', '', '', '', '', table.concat(runs) }, true)
append(copied, ARGV[4], fields)
commit(copied)
LOG, INDEX, ORDER = own[1], own[2], own[3]
for i, key in ipairs(own) do -- keys of the target that outlived a lost log are replaced
  redis.call('RENAME', KEYS[7 + i], key)
  redis.call('PERSIST', key)
end
if redis.call('ZSCORE', RUNS, '') then
  for i = 6 + size, #ARGV do
    remember_run(RUNS, THREAD, ARGV[i])
  end
end
keep_alive(tonumber(ARGV[2]), -1, {})
if tonumber(ARGV[2]) == 0 then
  never_expires()
end
return { 'ok' }
