-- Reads a page of a partition's threads, the last active first. Only reads.
--
-- KEYS: 1 threads.
-- ARGV: 1 greatest score; 2 least score; 3 number of members to skip; 4 most members.
-- Reply: 1 if the view is whole, else 0; members and scores in turn.

local threads = KEYS[1]
local greatest, least, skip, most = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
return {
  redis.call('ZSCORE', threads, '') and 1 or 0,
  redis.call('ZREVRANGEBYSCORE', threads, greatest, least, 'WITHSCORES', 'LIMIT', skip, most),
}
