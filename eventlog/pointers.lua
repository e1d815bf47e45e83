-- Prelude, after names.lua: the pointers in a partition's feed, and their fold into the views of its threads.

-- The fields of a pointer by name.
local function pointer_of(fields)
  local pointer = {}
  for i = 1, #fields, 2 do
    pointer[fields[i]] = fields[i + 1]
  end
  return pointer
end

-- The fingerprint of a pointer, from its flat fields; it tells pointers with the same entry id apart.
local function pointer_check(fields)
  local pointer = pointer_of(fields)
  local named = { pointer.thread or '', pointer.id or '', pointer.seq or '', pointer.kind or '' }
  return string.sub(redis.sha1hex(table.concat(named, '\n')), 1, 8)
end

-- Whether the id of a feed entry precedes another.
local function comes_before(id, other)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, seq, other_ms, other_seq = tonumber(ms), tonumber(seq), tonumber(other_ms), tonumber(other_seq)
  return ms < other_ms or (ms == other_ms and seq < other_seq)
end

-- The runs that wrote to the thread of a pointer, without those of writes; nil if it is not of this project.
local function runs_told(pointer)
  if not (pointer.thread and pointer.kind and pointer.run) then
    return nil
  end
  if pointer.kind ~= 'copied' and pointer.kind ~= 'imported' then
    return pointer.kind ~= 'writes' and pointer.run ~= '' and { pointer.run } or {}
  end
  local runs, at = {}, 1
  while at <= #pointer.run do
    local size, from = string.match(pointer.run, '^(%d+):()', at)
    if not size or from + size - 1 > #pointer.run then
      return nil
    end
    runs[#runs + 1] = string.sub(pointer.run, from, from + size - 1)
    at = from + size
  end
  return runs
end

local FOLD = 2000 -- runs that one call notes or removes
local FOLD_BYTES = 1048576 -- of pointers that one call looks at, as `weight_of` counts them

-- The bytes of a pointer for the bounds of a page. The runs that it names are read one by one, so they count more.
local function weight_of(fields)
  local bytes = 25 * #fields
  for i = 2, #fields, 2 do
    bytes = bytes + #fields[i] * ((fields[i - 1] == 'run' and #fields[i] > 256) and 20 or 1)
  end
  return bytes
end

-- Whether a pointer says that its thread ended.
local function is_end(pointer)
  return pointer.kind == 'deleted' or pointer.kind == 'expired'
end

-- How many of some pointers one call may fold into `runs`; and the thread that ends next, if it has so many runs that a part of them has
-- to be removed first. Pointer i reports `reported[i]` runs.
local function affordable(runs, pointers, reported)
  local cost = 0
  for i, pointer in ipairs(pointers) do
    local own = #reported[i]
    if is_end(pointer) then
      local prefix = 't' .. counted(pointer.thread)
      own = redis.call('ZLEXCOUNT', runs, '[' .. prefix, '(' .. prefix .. '\255')
      if own * (1 + #pointer.thread / 1024) > FOLD / 2 then
        return i - 1, pointer.thread
      end
    end
    cost = cost + own * (1 + #pointer.thread / 1024)
    if cost > FOLD and i > 1 then
      return i - 1
    end
  end
  return #pointers
end

-- Folds some pointers of `entries` into `threads` and `runs`.
local function fold_pointers(threads, runs, entries, pointers, reported, count)
  local active, noted = {}, {} -- by thread, since it was last forgotten: ms of its last activity, and its runs
  for i = 1, count do
    local pointer = pointers[i]
    local thread = pointer.thread
    if is_end(pointer) then
      active[thread], noted[thread] = nil, nil
      redis.call('ZREM', threads, 't' .. thread)
      while forget_runs(runs, thread, 1) == 1 do
      end
    elseif pointer.kind ~= 'writes' or active[thread] or redis.call('ZSCORE', threads, 't' .. thread) then
      active[thread] = string.match(entries[i][1], '^%d+')
      noted[thread] = noted[thread] or {}
      for _, run in ipairs(reported[i]) do
        if not noted[thread][run] then
          noted[thread][run] = true
          remember_run(runs, thread, run)
        end
      end
    end
  end
  for thread, ms in pairs(active) do
    redis.call('ZADD', threads, ms, 't' .. thread)
  end
end
