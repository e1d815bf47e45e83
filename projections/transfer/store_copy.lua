-- Puts a copied log in place, appends the event that names its source, and announces it.
--
-- Preludes: eventlog/names, eventlog/log, projections/transfer/staged_thread.
-- KEYS: those of log.lua, of the target; 8 staged log; 9 staged index; 10 staged order.
-- ARGV: 1 target thread id; 2 ttl in ms, 0 for none; 3 kind, 4 content digest, 5 number of fields, and fields of the event; then
--   runs that wrote to the thread, which the feed's pointer names, too.
-- Reply: {'ok', entry id, digest} of the event; {'moved'} if the staged log is no longer whole; {'same'} if the target is this very
--   copy, with nothing after it; {'exists'} if the target has another log; {'stale'} if its index does not belong to its log;
--   {'ended'} if runs of an earlier thread are left, see `forget_runs.lua`.
-- Guarantees: the target's keys are created all together or not at all.

local ttl, kind, content, size = tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local fields, runs = { unpack(ARGV, 6, 5 + size) }, runs_from(6 + size)

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
if not (why or state.first) then
  drop_staged()
  local entry = redis.call('XRANGE', LOG, state.l, state.l)[1]
  return { entry and same_event(entry[2], fields) and 'same' or 'exists' }
end

if has_old_runs() then
  return { 'ended' }
end
local copied = open_staged()
if not copied then
  return { 'moved' }
end

-- From here on it writes.

announce_staged(copied, 1, views, kind, runs)
append(copied, content, fields)
commit(copied)
put_in_place(runs, ttl)
return { 'ok', copied.l, copied.d }
