-- Prelude after names.lua and pointers.lua: reads a partition's feed after an entry, and the threads that are due there.
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

-- The filters in ARGV from `at` on: four lists (kinds, threads, namespaces, nodes), each after its length; nil if all are empty.
local function filters_at(at)
  local found, any = {}, false
  for i = 1, 4 do
    local length = tonumber(ARGV[at])
    if length > 0 then
      any, found[i] = true, {}
      for j = 1, length do
        found[i][ARGV[at + j]] = true
      end
    end
    at = at + 1 + length
  end
  return any and found or nil
end

-- Whether a set has one of the counted names in `parts`.
local function names_one(parts, set)
  local at = 1
  while at <= #parts do
    local size, from = string.match(parts, '^(%d+):()', at)
    if not size then
      return false
    end
    if set[string.sub(parts, from, from + size - 1)] then
      return true
    end
    at = from + size
  end
  return false
end

-- Whether a pointer passes the filters.
local function passes(fields, filters)
  local pointer = pointer_of(fields)
  return (not filters[1] or filters[1][pointer.kind])
    and (not filters[2] or filters[2][pointer.thread])
    and (not filters[3] or filters[3][pointer.ns] or filters[3][string.gsub(pointer.ns or '', ':[^|]*', '')])
    and (not filters[4] or names_one(pointer.nodes or '', filters[4]))
end

-- Reads after `id`: at most `count` pointers that pass, of at most `scan` looked at. Returns the pointers as
-- {id, fields, number looked at up to it}; id and fingerprint of the last entry looked at; the number looked at; 1 if more may follow, else 0.
local function read_on(feed, id, fingerprint, count, scan, filters)
  local out, looked = {}, 0
  local most = filters and scan or count
  local entries = redis.call('XRANGE', feed, '(' .. id, '+', 'COUNT', most)
  for _, entry in ipairs(entries) do
    looked = looked + 1
    if not filters or passes(entry[2], filters) then
      out[#out + 1] = { entry[1], entry[2], looked }
      if #out == count then
        break
      end
    end
  end
  local last = entries[looked]
  if last then
    id, fingerprint = last[1], pointer_check(last[2])
  end
  return out, id, fingerprint, looked, (looked < #entries or #entries == most) and 1 or 0
end
