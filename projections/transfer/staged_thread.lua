-- Prelude, after log.lua: puts a staged log, index and order in the place of a thread's.
--
-- KEYS after those of log.lua: 8 staged log; 9 staged index; 10 staged order.

local STAGED = { KEYS[8], KEYS[9], KEYS[10] }

-- The arguments from one on: the runs that wrote to the thread.
local function runs_from(first)
  local runs = {}
  for i = first, #ARGV do
    runs[#runs + 1] = ARGV[i]
  end
  return runs
end

local function drop_staged()
  redis.call('UNLINK', STAGED[1], STAGED[2], STAGED[3])
end

-- The state of the staged log, nil if it is not whole. From here on, log.lua's functions work on the staged keys.
local function open_staged()
  LOG, INDEX, ORDER = STAGED[1], STAGED[2], STAGED[3]
  local state = open()
  return state and not state.first and state or nil
end

-- Announces the thread with its runs, as the event of some number after the staged log's last.
local function announce_staged(state, events, views, kind, runs)
  local parts = {}
  for i, run in ipairs(runs) do
    parts[i] = counted(run)
  end
  announce(state, events, views, { kind, '', '', '', '', '', '', '', table.concat(parts) }, true)
end

-- Renames the staged keys to the thread's, notes its runs, and lets it expire after `ttl` ms (0: never).
local function put_in_place(runs, ttl)
  LOG, INDEX, ORDER = KEYS[1], KEYS[2], KEYS[3]
  redis.call('UNLINK', LOG, INDEX, ORDER) -- a rename would free them at once
  for i, key in ipairs({ LOG, INDEX, ORDER }) do -- replaces keys that outlived a lost log
    redis.call('RENAME', STAGED[i], key)
    redis.call('PERSIST', key)
  end
  if redis.call('ZSCORE', RUNS, '') then
    for _, run in ipairs(runs) do
      remember_run(RUNS, THREAD, run)
    end
  end
  keep_alive(ttl, -1, {})
  if ttl == 0 then
    never_expires()
  end
end
