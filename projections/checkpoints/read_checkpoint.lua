-- Reads the latest checkpoint of a namespace from its head, or any checkpoint from the log.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 life in ms that a read gives an expiring thread, 0 for none; 3 namespace's sort key;
--   4 checkpoint's sort key, '' for the latest; 5 '1' to read the latest from the log although there is a head.
-- Reply: {'none'} if there is no such checkpoint;
--   {'head'} if the head has it: the caller sends HGETALL next, since a script would copy the head four times;
--   {'view', view, pieces, versions, last entry id and digest of the log}, as checkpoint_view.lua describes them;
--   {'gone', ...} or {'deep', ...} as checkpoint_view.lua says; {'stale'} or {'lost'} as log.lua says.
-- Guarantees: writes nothing but expiry times.

local HEAD, ROOT = KEYS[8], KEYS[9]
local ttl, ns_sort_key, sort_key, from_log = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5] == '1'

local last = newest(ORDER, ns_sort_key)
local state, why = open(nil, last)
if not state then
  return { why }
end
if state.first then
  return { 'none' }
end

local function prolong()
  local left = ttl > 0 and redis.call('PTTL', LOG) or -1
  if left >= 0 then
    shared_views(false, true)
    keep_alive(ttl, left, HEAD == ROOT and { HEAD } or { HEAD, ROOT }, HEAD ~= ROOT)
  end
end

local member
if sort_key ~= '' then
  member = members(ORDER, 'c' .. sort_key)[1]
elseif from_log or not head_of(HEAD, ns_sort_key, last) then
  member = last
else
  prolong()
  return { 'head' }
end
if not member then
  return { 'none' }
end
local read = reader()
local found, why_not = view(read, member, state.l)
if not found then
  return why_not
end
prolong()
return { 'view', found, pieces_of(read), read.versions, state.l, state.d }
