-- Prelude after names.lua and pointers.lua: where a reader of a partition's feed stands, and the threads that are due there.
--
-- A fingerprint of a pointer is called `check` in hashes (field 'check') and scripts.

-- The server's clock in ms since 1970.
local function clock()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Whether a reader may go on after the entry `id` with its fingerprint ('': not known): 'ok'; 'trimmed' if entries after it were
-- trimmed; 'lost' if the feed does not have the entry and never trimmed it, so that another server had more.
local function standing(feed, trimmed, id, fingerprint)
  local past = redis.call('HMGET', trimmed, 'id', 'check')
  if past[1] and comes_before(id, past[1]) then
    return 'trimmed'
  end
  if fingerprint == '' then
    return 'ok'
  end
  if past[1] == id then
    return past[2] == fingerprint and 'ok' or 'lost'
  end
  local entry = redis.call('XRANGE', feed, id, id)[1]
  return entry and pointer_check(entry[2]) == fingerprint and 'ok' or 'lost'
end

-- The threads whose failed events are due, 16 at most, and the ms until the next is due, -1 if there is none.
local function due_of(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[1] or first[2] == 'inf' then
    return {}, -1
  end
  local now = clock()
  local left = math.max(0, tonumber(first[2]) - now)
  return left == 0 and redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.0f', now), 'LIMIT', 0, 16) or {}, left
end
