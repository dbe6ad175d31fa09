-- The rules of policies/rate_limit.py on the server's clock, for many requests in one call.
--
-- KEYS     one per check: {digest of the key} and the limit's id
-- ARGV[1]  per request: number of checks (u16); per check: algorithm + 8 when enforced (u8), capacity, limit, period in
--          microseconds, cost (doubles). Cost 0 only looks, cost -1 forgets the key.
-- ARGV[2]  anything: nothing is charged
-- returns  24 bytes per check: units left, microseconds until one more, microseconds until a denied cost fits (0: admitted)
--
-- The checks of a request are charged all or none. Times and counts are whole numbers in doubles, as in the rules.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local blob, look, at, number = ARGV[1], ARGV[2], 1, 0
local floor, ceil, unpack = math.floor, math.ceil, struct.unpack
local states, dirty, out = {}, {}, {}

local WINDOW, LOG, BUCKET = 0, 1, 2

local function load(key, kind, per)
  local state = states[key]
  if state then return state end
  if kind == LOG then
    local last = redis.call('LINDEX', key, -1)
    if last and tonumber(last) > now then -- the clock stepped back
      local all = redis.call('LRANGE', key, 0, -1)
      redis.call('DEL', key)
      for _, one in ipairs(all) do
        redis.call('RPUSH', key, string.format('%.0f', math.min(tonumber(one), now)))
      end
      redis.call('PEXPIRE', key, ceil(per / 1000) + 1)
    end
    while true do
      local first = redis.call('LINDEX', key, 0)
      if not first or tonumber(first) > now - per then break end
      redis.call('LPOP', key)
    end
    return {redis.call('LLEN', key)} -- never kept: the list itself is the state
  end
  local value = redis.call('GET', key)
  if kind == WINDOW then
    local index = (now - now % per) / per
    state = {index, 0, 0}
    if value and #value == 24 then
      local old, last, this = unpack('<ddd', value)
      if old == index - 1 then state[2] = this
      elseif old >= index then state[2], state[3] = last, this end
    end
  else
    state = {0, now}
    if value and #value == 16 then
      local level, since = unpack('<dd', value)
      state[1], state[2] = level, math.min(since, now)
    end
  end
  states[key] = state
  return state
end

local function level_of(state, limit, per)
  local level = state[1] - (now - state[2]) * limit / per
  return level > 0 and level or 0
end

local function room(state, kind, capacity, limit, per)
  if kind == LOG then return capacity - state[1] end
  if kind == BUCKET then return capacity - level_of(state, limit, per) end
  if state[2] == 0 then return capacity - state[3] end
  return capacity - (state[2] * (per - now % per) / per + state[3])
end

local function wait(key, state, kind, capacity, limit, per, cost)
  if kind == LOG then
    local over = state[1] + cost - capacity
    if over <= 0 then return 0 end
    if over > state[1] then return per end
    return tonumber(redis.call('LINDEX', key, over - 1)) + per - now
  end
  if kind == BUCKET then
    local over = level_of(state, limit, per) + cost - capacity
    return over > 0 and ceil(over * per / limit) + 1 or 0
  end
  local last, this, into, left = state[2], state[3], now % per, capacity - cost
  if this <= left then
    if last * (per - into) / per + this <= left then return 0 end
    return ceil((per - into) - (left - this) * per / last) + 1
  end
  if left < 0 then return 2 * per - into end
  return (per - into) + ceil(per - left * per / this) + 1
end

local function charge(key, state, kind, capacity, limit, per, cost)
  if kind == LOG then
    local stamp = string.format('%.0f', now)
    for _ = 1, cost do redis.call('RPUSH', key, stamp) end
    redis.call('PEXPIRE', key, ceil(per / 1000) + 1)
    state[1] = state[1] + cost
    return
  end
  if kind == BUCKET then
    state[1], state[2] = level_of(state, limit, per) + cost, now
    dirty[key] = {BUCKET, ceil(state[1] * per / limit / 1000) + 1}
  else
    state[3] = state[3] + cost
    dirty[key] = {WINDOW, ceil(per / 500) + 1}
  end
end

while at <= #blob do
  local count
  count, at = unpack('<H', blob, at)
  local checks, denied = {}, false
  for i = 1, count do
    local code, capacity, limit, per, cost
    code, capacity, limit, per, cost, at = unpack('<Bdddd', blob, at)
    number = number + 1
    local key, kind, enforced = KEYS[number], code, false
    if code >= 8 then kind, enforced = code - 8, true end
    if cost < 0 then
      redis.call('DEL', key)
      states[key], dirty[key], cost = nil, nil, 0
    end
    local state = load(key, kind, per)
    local free = room(state, kind, capacity, limit, per)
    if cost > free and enforced then denied = true end
    checks[i] = {key, state, kind, capacity, limit, per, cost, free}
  end
  for i = 1, count do
    local key, state, kind, capacity, limit, per, cost, free = (table.unpack or _G.unpack)(checks[i])
    local left, until_cost = 0, 0
    if cost > free then
      until_cost = wait(key, state, kind, capacity, limit, per, cost)
    elseif not denied and not look and cost > 0 then
      charge(key, state, kind, capacity, limit, per, cost)
      free = free - cost
    end
    if free > 0 then left = floor(free) end
    local more = wait(key, state, kind, capacity, limit, per, left < capacity and left + 1 or left)
    out[#out + 1] = struct.pack('<i8i8i8', left, more, until_cost)
  end
end

for key, how in pairs(dirty) do
  local state = states[key]
  local value
  if how[1] == BUCKET then value = struct.pack('<dd', state[1], state[2])
  else value = struct.pack('<ddd', state[1], state[2], state[3]) end
  redis.call('SET', key, value, 'PX', how[2])
end
return table.concat(out)
