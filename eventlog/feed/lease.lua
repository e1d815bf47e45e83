-- Takes, renews or gives back the lease of a partition for a member of a consumer group.
--
-- Preludes: eventlog/names.
-- KEYS: 1 positions, 2 state, 3 held (waiting events).
-- ARGV: 1 group; 2 'take', 'renew' or 'release'; 3 fencing token: the name of this lease alone; 4 member; 5 ms that the lease lasts;
--   of 'take' also 6 bound in `held` from which threads with waiting events are read, '-' to begin; 7 most of them.
-- Reply: {'ok'} or, of 'take', {'ok', id, fingerprint and number of the position, threads with waiting events, ordered, stamp of the
--   last settlement, bound from which another 'take' reads more of the threads, '' if there are no more}; {'taken'} if another member
--   has the lease; {'fenced'} if the lease has another token;
--   {'none'} if the group is not registered in this partition.
-- Guarantees: a full server takes all of these, since the first write frees memory or is none.

local positions, state, held = KEYS[1], KEYS[2], KEYS[3]
local group, action, token, member, lasts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('HEXISTS', positions, group) == 0 then
  return { 'none' }
end
local lease = redis.call('HMGET', state, 'token', 'until')
if action == 'take' then
  if lease[1] and lease[1] ~= token and tonumber(lease[2]) > now then
    return { 'taken' }
  end
elseif lease[1] ~= token then
  return { 'fenced' }
end
redis.call('HDEL', state, '') -- the first write, which a full server takes
if action == 'release' then
  redis.call('HDEL', state, 'token', 'member', 'until')
  return { 'ok' }
end
redis.call('HSET', state, 'token', token, 'member', member, 'until', string.format('%.0f', now + lasts))
if action == 'renew' then
  return { 'ok' }
end
local position = redis.call('HMGET', state, 'id', 'check', 'n', 'stamp')
local threads, bound, left = {}, ARGV[6], tonumber(ARGV[7])
while left > 0 do
  local event = redis.call('ZRANGEBYLEX', held, bound, '+', 'LIMIT', 0, 1)[1]
  if not event then
    bound = ''
    break
  end
  local is_event, thread_end = pcall(part_end, event, 1)
  if is_event then
    local thread = string.sub(event, 1, thread_end)
    threads[#threads + 1] = thread
    bound = '(' .. thread .. '\255'
  else -- a member that this package does not write
    bound = '(' .. event
  end
  left = left - 1 - math.floor(#event / 512)
end
return { 'ok', position[1], position[2], position[3], threads, position[4] or '', bound }
