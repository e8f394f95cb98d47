-- wrk -s benchmarks/wrk.lua URL -- LIST: sends the requests that LIST names, one file a line, again and again.
-- Prints what benchmarks/generator.py prints, as the last line.

local threads = {}

function setup(thread)
  table.insert(threads, thread)
end

function init(args)
  requests, turn, statuses = {}, 0, {}
  local read = {}
  for path in io.lines(args[1]) do
    if not read[path] then
      local file = assert(io.open(path, "rb"))
      read[path] = file:read("*a")
      file:close()
    end
    requests[#requests + 1] = read[path]
  end
end

function request()
  turn = turn % #requests + 1
  return requests[turn]
end

function response(status)
  statuses[status] = (statuses[status] or 0) + 1
end

function done(summary, latency)
  local counted = {}
  for _, thread in ipairs(threads) do
    for status, count in pairs(thread:get("statuses")) do
      counted[#counted + 1] = string.format('"%d": %d', status, count)
    end
  end
  local errors = {}
  for _, kind in ipairs({ "connect", "read", "write", "timeout" }) do
    errors[#errors + 1] = string.format('"%s": %d', kind, summary.errors[kind])
  end
  local values = {}
  for name, share in pairs({ p50_ms = 50, p90_ms = 90, p99_ms = 99, p999_ms = 99.9 }) do
    values[#values + 1] = string.format('"%s": %.3f', name, latency:percentile(share) / 1e3)
  end
  io.write(string.format('{"seconds": %.3f, %s, "max_ms": %.3f, "statuses": {%s}, "errors": {%s}}\n',
    summary.duration / 1e6, table.concat(values, ", "), latency.max / 1e3,
    table.concat(counted, ", "), table.concat(errors, ", ")))
end
