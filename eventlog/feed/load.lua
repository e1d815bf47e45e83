-- Reads an event of a thread's log, or tells why it is not there.
--
-- Preludes: eventlog/names.
-- KEYS: 1 log, 2 index, 3 expiries.
-- ARGV: 1 thread; 2 entry id; 3 sequence number.
-- Reply: {'ok', fields}; {'pruned', {}} if the log goes on without it, {'expired', {}} if the thread is noted to have ended, else {'deleted', {}}.

local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if entry then
  return { 'ok', entry[2] }
end
-- Whether an entry of the log has no greater number than the event and came later all the same: then the log was begun anew.
local function is_of_another_life(found)
  for i = 1, #found[2], 2 do
    if found[2][i] == 'n' then
      return tonumber(found[2][i + 1]) <= tonumber(ARGV[3]) and is_before(ARGV[2], found[1])
    end
  end
end

local first = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
if first then
  local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  return { (is_of_another_life(first) or is_of_another_life(last)) and 'deleted' or 'pruned', {} }
end
local expiry = redis.call('ZSCORE', KEYS[3], 't' .. ARGV[1])
local time = redis.call('TIME')
if expiry and tonumber(expiry) <= tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) then
  return { 'expired', {} }
end
return { 'deleted', {} }
