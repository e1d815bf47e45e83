-- Prelude: the ends of a log.

-- The first entry of a log, or the last ('XREVRANGE', '+', '-'), as its id and its seal; '' for none.
local function end_of(log, command, from, to)
  local entry = redis.call(command, log, from, to, 'COUNT', 1)[1]
  if not entry then
    return '', ''
  end
  local seal = ''
  for i = 1, #entry[2], 2 do
    if entry[2][i] == 'g' then
      seal = entry[2][i + 1]
    end
  end
  return entry[1], seal
end

-- The seals of the first and the last entry.
local function seals_of(log)
  local _, first = end_of(log, 'XRANGE', '-', '+')
  local _, last = end_of(log, 'XREVRANGE', '+', '-')
  return { first, last }
end
