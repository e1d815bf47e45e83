-- Prelude, behind names.lua: the pointers that a partition's feed consists of, and what they say of its threads.

-- The fields of a pointer by name.
local function pointer_of(fields)
  local pointer = {}
  for i = 1, #fields, 2 do
    pointer[fields[i]] = fields[i + 1]
  end
  return pointer
end

-- By what a pointer, given as its flat fields, is told from another that has the same entry id.
local function pointer_check(fields)
  local pointer = pointer_of(fields)
  local named = { pointer.thread or '', pointer.id or '', pointer.seq or '', pointer.kind or '' }
  return string.sub(redis.sha1hex(table.concat(named, '\n')), 1, 8)
end

-- Whether the id of one entry of a feed comes before another's.
local function comes_before(id, other)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  local other_ms, other_seq = string.match(other, '^(%d+)-(%d+)$')
  ms, seq, other_ms, other_seq = tonumber(ms), tonumber(seq), tonumber(other_ms), tonumber(other_seq)
  return ms < other_ms or (ms == other_ms and seq < other_seq)
end

-- The runs that a pointer says wrote to its thread; nil if it is none that this project wrote. Writes do not count.
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

-- Folds pointers of entries, each of which tells of the runs `told[i]`, into `threads`, `runs` and, if there is one, `expiries`.
local function fold_pointers(threads, runs, expiries, entries, pointers, told)
  local active, noted = {}, {} -- what was folded of a thread since it was forgotten last: ms of its last activity, its runs
  for i, pointer in ipairs(pointers) do
    local thread = pointer.thread
    if pointer.kind == 'deleted' or pointer.kind == 'expired' then
      active[thread], noted[thread] = nil, nil
      forget_thread(threads, runs, expiries, thread)
    elseif pointer.kind ~= 'writes' or active[thread] or redis.call('ZSCORE', threads, 't' .. thread) then
      active[thread] = string.match(entries[i][1], '^%d+')
      noted[thread] = noted[thread] or {}
      for _, run in ipairs(told[i]) do
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
