-- Runs one command.
--
-- KEYS: 1 its key.
-- ARGV: 1 its name; then its arguments.
-- Reply: its own.

return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
