-- Prelude: reads a page of a stream in steps, so that no command returns much more than the page may hold.

local SMALL_STEP = 65536 -- bytes that a step of several entries should return; more only if long entries follow short ones
local FIELD = 300 -- bytes that a field counts for beside its own, since the work on many short fields takes time, too

-- The size of an entry's fields.
local function bytes_of(fields)
  local bytes = FIELD / 2 * #fields
  for i = 1, #fields do
    bytes = bytes + #fields[i]
  end
  return bytes
end

-- Entries after an entry ('' for the start), and 1 if there may be more, else 0. The page has at most `most` entries, and ends early
-- once `take` has returned more than `most_bytes` in all; `take` receives the fields of each entry and returns their size. A step
-- reads at most `most_at_once` entries.
local function page_of(log, after, most, most_bytes, most_at_once, take)
  local entries, count, bytes, step, more = {}, 0, 0, 1, 1
  while more == 1 and count < most and bytes <= most_bytes do
    local wanted = math.min(step, most - count)
    local found = redis.call('XRANGE', log, after == '' and '-' or '(' .. after, '+', 'COUNT', wanted)
    local before, taken = bytes, 0
    while taken < #found and bytes <= most_bytes do
      taken = taken + 1
      bytes = bytes + take(found[taken][2])
      entries[count + taken] = found[taken]
      after = found[taken][1]
    end
    count = count + taken
    if taken == #found and taken < wanted then
      more = 0
    end
    step = math.max(1, math.min(most_at_once, 2 * step, math.floor(SMALL_STEP * taken / (bytes - before + 1))))
  end
  return entries, more
end
