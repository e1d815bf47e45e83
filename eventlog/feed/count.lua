-- Counts a page of a feed's entries.
--
-- KEYS: 1 feed.
-- ARGV: 1 entry id to count after.
-- Reply: the number of entries that follow, 1000 at most; the id of the last of them.

local feed, id = KEYS[1], ARGV[1]
local entries = redis.call('XRANGE', feed, '(' .. id, '+', 'COUNT', 1000)
return { #entries, #entries > 0 and entries[#entries][1] or id }
