-- Runs one command.
--
-- KEYS: 1 key of the command.
-- ARGV: 1 name of the command; its arguments follow.
-- Reply: the command's own.

local name = ARGV[1]

return redis.call(name, KEYS[1], unpack(ARGV, 2))
