-- Reads an event of a thread's log, or says why it is gone.
--
-- Preludes: eventlog/names.
-- KEYS: 1 log, 2 index, 3 expiries.
-- ARGV: 1 thread; 2 entry id; 3 sequence number.
-- Reply: {'ok', fields}; {'pruned', {}} if the log goes on without the event; {'expired', {}} if the thread is noted to have
--   expired; else {'deleted', {}}.

local log, expiries = KEYS[1], KEYS[3]
local thread_id, entry_id, sequence = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- Whether an entry shows that the log was begun again: it came after the event, and has no greater sequence number.
local function is_of_another_life(entry)
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'n' then
      return tonumber(entry[2][i + 1]) <= sequence and is_before(entry_id, entry[1])
    end
  end
end

local found = redis.call('XRANGE', log, entry_id, entry_id)[1]
if found then
  return { 'ok', found[2] }
end
local first = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if first then
  local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return { (is_of_another_life(first) or is_of_another_life(last)) and 'deleted' or 'pruned', {} }
end
local expiry = redis.call('ZSCORE', expiries, 't' .. thread_id)
local time = redis.call('TIME')
if expiry and tonumber(expiry) <= tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) then
  return { 'expired', {} }
end
return { 'deleted', {} }
