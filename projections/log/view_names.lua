-- Walks over the fields of a hash, or the members of a sorted set. It only reads.
--
-- KEYS: 1 hash or sorted set.
-- ARGV: 1 'HSCAN' or 'ZSCAN'; 2 cursor, '0' to begin.
-- Reply: next cursor, '0' at the end; names and what they have, in turn; some may come twice.

return redis.call(ARGV[1], KEYS[1], ARGV[2], 'COUNT', 1000)
