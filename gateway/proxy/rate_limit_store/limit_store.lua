-- The rules of policies/rate_limit/algorithms.py on the server's clock, for many requests in one call.
--
-- KEYS     one per check: {digest of the key} and the limit's id
-- ARGV[1]  per request: number of checks (u16); per check: algorithm + 8 when enforced (u8), capacity, limit, period in
--          microseconds, cost (doubles). Cost 0 only looks, cost -1 forgets the key.
-- ARGV[2]  anything: nothing is charged
-- returns  24 bytes per check: units left, microseconds until one more, microseconds until a denied cost fits (0: admitted)
--
-- The checks of a request are charged all or none. Times and counts are whole numbers in doubles, as in the rules. A state from
-- the future, where the clock stepped back, and one of a limit of another size are written anew even when nothing is charged:
-- what is made of them at one moment has to hold for the next.
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local blob, look, at, number = ARGV[1], ARGV[2], 1, 0
local floor, ceil, pack, unpack = math.floor, math.ceil, struct.pack, struct.unpack
local states, dirty, out = {}, {}, {} -- by key: four numbers or strings, the last is the algorithm; its time to live

local WINDOW, LOG, BUCKET, EXACT = 0, 1, 2, 3
local END = '.' -- behind the times of an exact window, so that no number of them is as long as two counters

local function save(key, ttl)
  local state, value = states[key]
  if state[4] == WINDOW then value = pack('<ddd', state[1], state[2], state[3])
  elseif state[4] == EXACT then value = state[2]
  else value = pack('<dd', state[1], state[2]) end
  redis.call('SET', key, value, 'PX', ttl)
end

-- How many times are left, their string, and where in it the first of these begins.
local function load_exact(key, value, capacity, per)
  if #value == 24 then -- the limit was larger, and had two counters: their times are taken as evenly spread
    local index, last, this = unpack('<ddd', value)
    local start, times = now - now % per, {}
    local into = now - start
    if index < start / per then last, this = index == start / per - 1 and this or 0, 0 end
    for n = math.max(0, last - capacity) + 1, last do times[#times + 1] = pack('<d', start - per + floor(per * n / last)) end
    for n = math.max(0, this - capacity) + 1, this do times[#times + 1] = pack('<d', start + floor(into * n / this)) end
    value = table.concat(times):sub(-8 * capacity) .. END
    dirty[key] = ceil(per / 1000) + 1
  elseif #value % 8 ~= 1 then
    value = END
  end
  local count, first = (#value - 1) / 8, 1
  if count > 0 and unpack('<d', value, #value - 8) > now then -- the clock stepped back
    local times = {}
    for n = 1, count do times[n] = pack('<d', math.min(unpack('<d', value, 8 * n - 7), now)) end
    value = table.concat(times) .. END
    dirty[key] = ceil(per / 1000) + 1
  end
  while count > 0 and unpack('<d', value, first) <= now - per do
    count, first = count - 1, first + 8
  end
  return {count, value, first, EXACT}
end

local function load(key, kind, capacity, limit, per)
  local state = states[key]
  if state then
    if state[4] == kind then return state end
    -- The size of the limit has changed between two requests of one call.
    if dirty[key] then save(key, dirty[key]) end
  end
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
    state = {index, 0, 0, WINDOW}
    if value and #value == 24 then
      local old, last, this = unpack('<ddd', value)
      if old == index - 1 then state[2] = this
      elseif old >= index then state[2], state[3] = last, this end
      if old > index then dirty[key] = ceil(per / 500) + 1 end
    elseif value and #value % 8 == 1 then -- the limit was smaller, and kept times: those of the last window weigh what they are
      for place = 1, #value - 1, 8 do
        local time = unpack('<d', value, place)
        if time >= index * per then state[3] = state[3] + 1
        elseif time > now - per then state[2] = state[2] + 1 end
      end
      state[2] = ceil(state[2] * per / (per - now % per))
      dirty[key] = ceil(per / 500) + 1
    end
  elseif kind == EXACT then
    state = load_exact(key, value or END, capacity, per)
  else
    state = {0, now, 0, BUCKET}
    if value and #value == 16 then
      local level, since = unpack('<dd', value)
      state[1], state[2] = level, math.min(since, now)
      if since > now then dirty[key] = ceil(level * per / limit / 1000) + 1 end
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
  if kind == WINDOW then
    if state[2] == 0 then return capacity - state[3] end
    return capacity - (state[2] * (per - now % per) / per + state[3])
  end
  if kind == BUCKET then return capacity - level_of(state, limit, per) end
  return capacity - state[1]
end

local function wait(key, state, kind, capacity, limit, per, cost)
  if kind == WINDOW then
    local last, this, into, left = state[2], state[3], now % per, capacity - cost
    if this <= left then
      if last * (per - into) / per + this <= left then return 0 end
      return ceil((per - into) - (left - this) * per / last) + 1
    end
    if left < 0 then return 2 * per - into end
    return (per - into) + ceil(per - left * per / this) + 1
  end
  if kind == BUCKET then
    local over = level_of(state, limit, per) + cost - capacity
    return over > 0 and ceil(over * per / limit) + 1 or 0
  end
  local over = state[1] + cost - capacity
  if over <= 0 then return 0 end
  if over > state[1] then return per end
  local time = kind == EXACT and unpack('<d', state[2], state[3] + 8 * (over - 1)) or redis.call('LINDEX', key, over - 1)
  return tonumber(time) + per - now
end

local function charge(key, state, kind, capacity, limit, per, cost)
  if kind == WINDOW then
    state[3] = state[3] + cost
    dirty[key] = ceil(per / 500) + 1
  elseif kind == EXACT then
    local times = state[2]:sub(state[3], -2)
    state[1], state[2], state[3] = state[1] + cost, times .. pack('<d', now):rep(cost) .. END, 1
    dirty[key] = ceil(per / 1000) + 1
  elseif kind == BUCKET then
    state[1], state[2] = level_of(state, limit, per) + cost, now
    dirty[key] = ceil(state[1] * per / limit / 1000) + 1
  else
    local stamp = string.format('%.0f', now)
    for _ = 1, cost do redis.call('RPUSH', key, stamp) end
    redis.call('PEXPIRE', key, ceil(per / 1000) + 1)
    state[1] = state[1] + cost
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
    local state = load(key, kind, capacity, limit, per)
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
    out[#out + 1] = pack('<i8i8i8', left, more, until_cost)
  end
end

for key, ttl in pairs(dirty) do save(key, ttl) end
return table.concat(out)
