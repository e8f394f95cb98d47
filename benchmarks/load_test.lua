-- wrk -s benchmarks/load_test.lua URL -- REQUESTS [RATE]: send the requests of a file in turn.
--
-- Without RATE this is a closed loop: a connection sends its next request once it has the response. With RATE, in
-- requests per second, it is an open loop, which needs one thread per connection (-t = -c): a request is due at a fixed
-- time whether or not the server keeps up, and its latency counts from then (no coordinated omission).
-- The last line printed is JSON.

local ffi = require("ffi")
ffi.cdef("typedef struct { long seconds, nanoseconds; } moment; int clock_gettime(int clock, moment *now);")
local MONOTONIC, clock = 1, ffi.new("moment")
local PERCENTILES = { p50_ms = 50, p99_ms = 99 }
local threads = {}

local function now()
  ffi.C.clock_gettime(MONOTONIC, clock)
  return tonumber(clock.seconds) + tonumber(clock.nanoseconds) / 1e9
end

function setup(thread)
  table.insert(threads, thread)
  thread:set("place", #threads)
end

function init(args)
  requests, turn, statuses, latencies = {}, place, {}, {}
  local file = assert(io.open(args[1], "rb"))
  for length in file:lines() do
    requests[#requests + 1] = file:read(tonumber(length))
  end
  file:close()
  is_open, due = args[2] ~= nil, math.huge
  if is_open then
    math.randomseed(place)
    interval, delay = 1 / tonumber(args[2]), wait_until_due
  end
end

function wait_until_due() -- milliseconds until the connection's next request is due
  due = due == math.huge and now() + math.random() * interval or due + interval
  return math.max(0, math.ceil((due - now()) * 1e3))
end

function request()
  turn = turn % #requests + 1
  sent = is_open and math.min(due, now()) -- wrk's timers are up to a millisecond early
  return requests[turn]
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
  if is_open then
    latencies[#latencies + 1] = (now() - sent) * 1e3
  end
end

function done(summary, latency)
  local counted, merged, fields = {}, {}, {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      counted[status] = (counted[status] or 0) + count
    end
    for _, milliseconds in ipairs(thread:get("latencies")) do
      merged[#merged + 1] = milliseconds
    end
  end
  table.sort(merged)
  for name, share in pairs(PERCENTILES) do
    local value = merged[math.ceil(share / 100 * #merged)] or latency:percentile(share) / 1e3
    fields[#fields + 1] = string.format('"%s": %.3f', name, value)
  end
  local errors = summary.errors
  fields[#fields + 1] = string.format('"broken": %d', errors.connect + errors.read + errors.write + errors.timeout)
  local by_status = {}
  for status, count in pairs(counted) do
    by_status[#by_status + 1] = string.format('"%d": %d', status, count)
  end
  fields[#fields + 1] = string.format('"statuses": {%s}', table.concat(by_status, ", "))
  io.write(string.format('\n{"seconds": %.3f, %s}\n', summary.duration / 1e6, table.concat(fields, ", ")))
end
