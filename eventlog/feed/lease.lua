-- Takes, renews or gives back the lease of a partition for a member of a consumer group.
--
-- KEYS: 1 positions, 2 state, 3 due.
-- ARGV: 1 group; 2 'take', 'renew' or 'release'; 3 token: what nobody else's lease is called; 4 member; 5 ms that the lease lasts.
-- Reply: {'ok'}, of 'take' with id, check and number of the position, the threads that are held, and the stamp of what was written down last; {'taken'} if
--   another member has it; {'fenced'} if the lease is no longer this one; {'none'} if the group is not registered.

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local group, what, token, member, lasts = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if redis.call('HEXISTS', KEYS[1], group) == 0 then
  return { 'none' }
end
local held = redis.call('HMGET', KEYS[2], 'token', 'member', 'until')
if what == 'take' then
  local left = held[1] and held[1] ~= token and tonumber(held[3]) - now or 0
  if left > 0 then
    return { 'taken' }
  end
elseif held[1] ~= token then
  return { 'fenced' }
end
redis.call('HDEL', KEYS[2], '') -- a first write that a full server takes
if what == 'release' then
  redis.call('HDEL', KEYS[2], 'token', 'member', 'until')
  return { 'ok' }
end
redis.call('HSET', KEYS[2], 'token', token, 'member', member, 'until', string.format('%.0f', now + lasts))
if what == 'renew' then
  return { 'ok' }
end
local position = redis.call('HMGET', KEYS[2], 'id', 'check', 'n', 'stamp')
return { 'ok', position[1], position[2], position[3], redis.call('ZRANGE', KEYS[3], 0, -1), position[4] or '' }
