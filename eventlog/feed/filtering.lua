-- Prelude after pointers.lua and stream_pages.lua: reads pointers of a partition's feed that pass filters.

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

local BYTES = 8388608 -- of pointers that one call looks at

-- Reads after `id`: at most `count` pointers that pass, of at most `scan` looked at. Returns the pointers as
-- {id, fields, number looked at up to it}; id and fingerprint of the last entry looked at; the number looked at; 1 if more may follow, else 0.
local function read_on(feed, id, fingerprint, count, scan, filters)
  local out, looked = {}, 0
  local entries, more
  if filters then
    entries, more = page_of(feed, id, scan, BYTES, 256, bytes_of)
  else
    entries = redis.call('XRANGE', feed, '(' .. id, '+', 'COUNT', count)
    more = #entries == count and 1 or 0
  end
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
  return out, id, fingerprint, looked, looked < #entries and 1 or more
end
