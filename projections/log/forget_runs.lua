-- Removes runs of a thread that ended, if some are left.
--
-- Preludes: eventlog/names.
-- KEYS: 1 runs.
-- ARGV: 1 thread id.
-- Reply: 1 if runs are left for another call, else 0.
-- Guarantees: leaves the runs of a thread that goes on.

local runs, thread = KEYS[1], ARGV[1]
if not redis.call('ZSCORE', runs, ended(thread)) then
  return 0
end
return forget_runs(runs, thread, 1)
