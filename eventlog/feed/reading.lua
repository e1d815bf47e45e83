-- Prelude, behind names.lua and pointers.lua: reading a partition's feed from a position.

-- What became of the position `id` with `check` ('': not known) in a feed: 'ok'; 'trimmed' if what came after it was taken out; 'lost' if
-- the feed does not have it and never trimmed it, so that it was read from a server that had more.
local function standing(feed, trimmed, id, check)
  local past = redis.call('HMGET', trimmed, 'id', 'check')
  if past[1] and comes_before(id, past[1]) then
    return 'trimmed'
  end
  if check == '' then
    return 'ok'
  end
  if past[1] == id then
    return past[2] == check and 'ok' or 'lost'
  end
  local entry = redis.call('XRANGE', feed, id, id)[1]
  return entry and pointer_check(entry[2]) == check and 'ok' or 'lost'
end

-- Threads whose failed events are to be tried again, 16 at most, and ms until the next is, -1 for none.
local function due_of(key)
  local first = redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')
  if not first[1] or first[2] == 'inf' then
    return {}, -1
  end
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local left = math.max(0, tonumber(first[2]) - now)
  return left == 0 and redis.call('ZRANGEBYSCORE', key, '-inf', string.format('%.0f', now), 'LIMIT', 0, 16) or {}, left
end

-- The filters that stand in ARGV from `at` on: four lists (kinds, threads, namespaces, nodes), each behind its length; nil for none.
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

-- Whether one of the names in `parts`, counted, is in a set.
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

-- Whether a pointer passes.
local function passes(fields, filters)
  local pointer = pointer_of(fields)
  return (not filters[1] or filters[1][pointer.kind])
    and (not filters[2] or filters[2][pointer.thread])
    and (not filters[3] or filters[3][pointer.ns] or filters[3][string.gsub(pointer.ns or '', ':[^|]*', '')])
    and (not filters[4] or names_one(pointer.nodes or '', filters[4]))
end

-- Reads on after `id`: at most `count` pointers that pass, of at most `scan` looked at. Returns the pointers
-- as {id, fields, how many were looked at up to it}; id and check of the last looked at; how many were; whether more may follow.
local function read_on(feed, id, check, count, scan, filters)
  local out, looked, more = {}, 0, nil
  local most = filters and scan or count
  local entries = redis.call('XRANGE', feed, '(' .. id, '+', 'COUNT', most)
  local last
  for _, entry in ipairs(entries) do
    looked, last = looked + 1, entry
    if not filters or passes(entry[2], filters) then
      out[#out + 1] = { entry[1], entry[2], looked }
      if #out == count then
        break
      end
    end
  end
  more = looked < #entries or #entries == most
  if last then
    id, check = last[1], pointer_check(last[2])
  end
  return out, id, check, looked, more and 1 or 0
end
