-- Reads a page of a partition's threads, those last active first, or of its feed. It only reads.
--
-- KEYS: 1 threads, or feed.
-- ARGV: 'threads', greatest score, least score, how many of them to skip, most; or 'feed', entry id to begin after ('' for the start), most.
-- Reply: 1 if the view is whole, or 0; members and scores in turn, or entries.

if ARGV[1] == 'feed' then
  return { 1, redis.call('XRANGE', KEYS[1], ARGV[2] == '' and '-' or '(' .. ARGV[2], '+', 'COUNT', ARGV[3]) }
end
return {
  redis.call('ZSCORE', KEYS[1], '') and 1 or 0,
  redis.call('ZREVRANGEBYSCORE', KEYS[1], ARGV[2], ARGV[3], 'WITHSCORES', 'LIMIT', ARGV[4], ARGV[5]),
}
