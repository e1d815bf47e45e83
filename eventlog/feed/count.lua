-- Counts a page of a feed's entries.
--
-- KEYS: 1 feed.
-- ARGV: 1 entry id to count after.
-- Reply: how many follow, 1000 at most; the id of the last of them.

local entries = redis.call('XRANGE', KEYS[1], '(' .. ARGV[1], '+', 'COUNT', 1000)
return { #entries, #entries > 0 and entries[#entries][1] or ARGV[1] }
