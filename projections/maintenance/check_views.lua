-- Reads some of what a hash and a sorted set hold, and how far the stream has come that they are views of. It only reads.
--
-- KEYS: 1 stream; 2 hash; 3 sorted set.
-- ARGV: 1 number of fields; these, of the hash; then members of the sorted set; a thousand of both at most.
-- Reply: entry id of the stream's last entry or '', its length, those of hash and sorted set, the fields' values, the members' scores.

local fields = tonumber(ARGV[1])
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local values = fields > 0 and redis.call('HMGET', KEYS[2], unpack(ARGV, 2, 1 + fields)) or {}
local scores = #ARGV > 1 + fields and redis.call('ZMSCORE', KEYS[3], unpack(ARGV, 2 + fields)) or {}
return {
  last and last[1] or '', redis.call('XLEN', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('ZCARD', KEYS[3]), values, scores,
}
