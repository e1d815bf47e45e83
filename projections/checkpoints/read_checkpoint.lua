-- Reads the latest checkpoint of a namespace from its head, or any checkpoint from the log.
--
-- Preludes: eventlog/names, eventlog/log, projections/checkpoints/checkpoint_view.
-- KEYS: those of log.lua; 8 head of the namespace; 9 head of the root namespace.
-- ARGV: 1 thread; 2 ttl in ms that reading gives a thread that is to expire, 0 for none; 3 namespace's place;
--   4 checkpoint's place, '' for the latest; 5 '1' to read the latest from
--   the log even if there is a head.
-- Reply: {'none'}; {'head'} if there is one, which the caller reads right after this, without a script: that would copy it four times; {'view', digest of the log, view, pieces, versions, the log's last entry id and digest}, as view.lua has it: an old checkpoint,
--   or the latest where there is no head; {'gone', entry id} if the log lacks an entry; {'stale'} or {'lost'}.

local HEAD, ROOT = KEYS[8], KEYS[9]
local ttl, ns_place, place = tonumber(ARGV[2]), ARGV[3], ARGV[4]

local last = newest(ORDER, ns_place)
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
if place == '' then
  if ARGV[5] ~= '1' and head_of(HEAD, ns_place, last) then
    prolong()
    return { 'head' }
  end
  member = last
else
  member = members(ORDER, 'c' .. place)[1]
end
if not member then
  return { 'none' }
end
local read = reader()
local found, gone = view(read, member)
if not found then
  return { 'gone', gone }
end
prolong()
return { 'view', state.d, found, pieces_of(read), read.versions, state.l, state.d }
