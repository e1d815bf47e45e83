-- Puts an imported log in place unchanged, and announces it.
--
-- Preludes: eventlog/names, eventlog/log, projections/transfer/staged_thread.
-- KEYS: those of log.lua; 8 staged log; 9 staged index; 10 staged order.
-- ARGV: 1 thread id; 2 ttl in ms, 0 for none; 3 digest and 4 entry id of the log's last entry; then runs that wrote to the thread,
--   which the feed's pointer names, too.
-- Reply: {'ok'}, also if this very call was carried out before; {'moved'} if the staged log is no longer whole;
--   {'same'} if the thread has this very log, and nothing after it; the caller deletes the staged log, which tells it from 'ok';
--   {'exists'} if the thread has another log; {'stale'} if its index does not belong to its log;
--   {'ended'} if runs of an earlier thread are left, see `forget_runs.lua`.
-- Guarantees: the thread's keys are replaced all together or not at all.

local ttl, digest, last, runs = tonumber(ARGV[2]), ARGV[3], ARGV[4], runs_from(5)

local state, why = open()
if why == 'stale' then
  return { why }
end
local views = shared_views(true, true)
if not (why or state.first) then
  local is_same = state.d == digest and state.l == last
  local is_done = is_same and redis.call('EXISTS', STAGED[1]) == 0 -- a call whose reply was lost renamed the staged log
  if not is_same then
    drop_staged()
  end
  return { is_done and 'ok' or is_same and 'same' or 'exists' }
end

if has_old_runs() then
  return { 'ended' }
end
local imported = open_staged()
if not imported or imported.d ~= digest then
  return { 'moved' }
end

-- From here on it writes.

announce_staged(imported, 0, views, 'imported', runs)
put_in_place(runs, ttl)
return { 'ok' }
