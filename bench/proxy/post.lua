-- wrk's part: every request is a chat completion of exactly the size asked for, none like another.
-- wrk ... -s post.lua URL -- SIZE SEED; prints one line of JSON at the end.

local BLOCK, BLOCKS = 256, 256
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("number", threads)
end

function init(args)
  size = tonumber(args[1])
  seed = args[2]
  math.randomseed(tonumber(seed) + number)
  blocks = {}
  for b = 1, BLOCKS do
    local letters = {}
    for i = 1, BLOCK do
      letters[i] = math.random(6) == 1 and " " or string.char(96 + math.random(26))
    end
    blocks[b] = table.concat(letters)
  end
  front = '{"model":"bench","messages":[{"role":"user","content":"'
  back = '"}]}'
  count = 0
  wrk.method = "POST"
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Authorization"] = "Bearer bench-key"
end

function request()
  count = count + 1
  local parts = { front, string.format("%s-%d-%d ", seed, number, count) }
  local rest = size - #front - #parts[2] - #back
  while rest > 0 do
    local block = blocks[math.random(BLOCKS)]
    if rest < BLOCK then
      block = block:sub(1, rest)
    end
    parts[#parts + 1] = block
    rest = rest - #block
  end
  parts[#parts + 1] = back
  return wrk.format(nil, nil, nil, table.concat(parts))
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests": %d, "microseconds": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, '
      .. '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
