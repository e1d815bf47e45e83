-- Tells how a thread stands, so that the next append to it needs no script (`transaction.py`).
--
-- Preludes: eventlog/names, eventlog/log.
-- KEYS: those of log.lua; 9 head of the namespace.
-- ARGV: 1 thread; 2 namespace's sort key; 3 entry id and 4 digest of the last event that the caller saw before, '' for none.
-- Reply: {n, d, l, c of the index, as log.lua has them; id, at, w, b, y, vb, wb of the head, '' for none; its order members of writes,
--   from the task on; the names of the head's fields of values, each followed by its length, or for '#' by the field;
--   the digest that the caller saw if the log has it, else ''}.
--   It is {} if the next append needs a script: the thread is new, expires or has hidden checkpoints, there is no head, writes wait
--   for a later checkpoint, or the head has too many fields. Redis before 7 replies {} always: within a transaction its scripts do
--   not learn of a full memory before they write.
-- Guarantees: only reads.

local HEAD, ns_sort_key = KEYS[9], ARGV[2]
local FIELDS, TASKS = 1000, 100 -- most fields of a head, and entries of writes in it

if not redis.REDIS_VERSION_NUM or redis.call('HLEN', HEAD) > FIELDS then
  return {}
end
local last = newest(ORDER, ns_sort_key)
local state = last and open(nil, last)
local head = state and not state.first and state.h == 0 and head_of(HEAD, ns_sort_key, last)
if not head or head.w > TASKS or redis.call('PTTL', LOG) ~= -1 then
  return {}
end
local sort_key = ns_sort_key .. ordered(head.id)
local waiting = redis.call('ZRANGEBYLEX', ORDER, '(w' .. sort_key .. '\255', '(w' .. ns_sort_key .. '\255', 'LIMIT', 0, 1)
if waiting[1] then
  return {}
end
local writes, values = members(ORDER, 'w' .. sort_key), {}
for i, member in ipairs(writes) do
  writes[i] = string.sub(member, #sort_key + 2)
end
for _, name in ipairs(redis.call('HKEYS', HEAD)) do
  local first = string.byte(name)
  if first == 61 then -- '='
    values[#values + 1], values[#values + 2] = name, redis.call('HSTRLEN', HEAD, name)
  elseif first == 35 then -- '#'
    values[#values + 1], values[#values + 2] = name, redis.call('HGET', HEAD, name)
  end
end
local found = redis.call('HMGET', HEAD, 'id', 'at', 'w', 'b', 'y', 'vb', 'wb')
for i = 1, 7 do
  found[i] = found[i] or ''
end
local seen = ARGV[3] ~= '' and fields_at(ARGV[3])
local before = seen and field_of(seen, 'd') == ARGV[4] and ARGV[4] or ''
return { string.format('%.0f', state.n), state.d, state.l, string.format('%.0f', state.c), found, writes, values, before }
