-- Reads some fields of a hash, or some members of a sorted set.
--
-- KEYS: 1 hash or sorted set.
-- ARGV: 1 'HSCAN' or 'ZSCAN'; 2 cursor, '0' to begin.
-- Reply: next cursor, '0' at the end; names and values in turn. Some may come twice.
-- Guarantees: only reads.

local command, cursor = ARGV[1], ARGV[2]
return redis.call(command, KEYS[1], cursor, 'COUNT', 1000)
