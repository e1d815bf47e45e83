-- Reads a page of a partition's threads, those last active first. It only reads.
--
-- KEYS: 1 threads.
-- ARGV: 1 greatest score; 2 least score; 3 how many of them to skip; 4 most.
-- Reply: 1 if the view is whole, or 0; members and scores in turn.

return {
  redis.call('ZSCORE', KEYS[1], '') and 1 or 0,
  redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[1], ARGV[2], 'WITHSCORES', 'LIMIT', ARGV[3], ARGV[4]),
}
