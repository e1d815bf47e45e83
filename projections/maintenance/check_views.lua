-- Reads parts of a hash and of a sorted set, together with the end of the stream that they are folded from. Only reads.
--
-- KEYS: 1 stream; 2 hash; 3 sorted set.
-- ARGV: 1 number of fields; then these fields of the hash; then members of the sorted set. At most 1000 of each.
-- Reply: entry id of the stream's last entry or ''; length of the stream; sizes of hash and sorted set; the fields' values; the
--   members' scores.

local stream, hash, sorted_set = KEYS[1], KEYS[2], KEYS[3]
local fields = tonumber(ARGV[1])
local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
local values = fields > 0 and redis.call('HMGET', hash, unpack(ARGV, 2, 1 + fields)) or {}
local scores = #ARGV > 1 + fields and redis.call('ZMSCORE', sorted_set, unpack(ARGV, 2 + fields)) or {}
return {
  last and last[1] or '', redis.call('XLEN', stream), redis.call('HLEN', hash), redis.call('ZCARD', sorted_set), values, scores,
}
