"""Load on one target: each function runs it and gives what was measured."""

import json
import math
import os
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request

from processes import Failed, tool
from stream_upstream import EVENTS, PACE_MS

PATH = "/v1/chat/completions"
CONNECTIONS = 64
BODY = b'{"model":"bench","stream":true,"messages":[{"role":"user","content":"Hello"}]}'
HERE = os.path.dirname(os.path.abspath(__file__))


def post(url, body, headers=None):
    request = urllib.request.Request(url, body, {"content-type": "application/json", **(headers or {})})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=30) as answer:
        return answer.headers, answer.read()


def check(target, sizes):
    """That the target passes bodies of these sizes both ways and whole streams, before anything is measured."""
    for name, size in sizes.items():
        headers, answer = post(f"{target.url}{PATH}?answer={name}", b"x" * size)
        read = int(headers.get("x-bench-read") or 0)
        if len(answer) != size or read < size:
            raise Failed(f"{target.name}: of {size} bytes {read} were read, and {len(answer)} came back")
    _, stream = post(target.streams_url + PATH, BODY, {"x-bench-burst": "1"})
    if stream.count(b"data: ") != EVENTS:
        raise Failed(f"{target.name}: {stream.count(b'data: ')} events of {EVENTS} came back")


def run(command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
    except subprocess.TimeoutExpired:
        raise Failed(f"{command[0]} does not end") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def requests(target, size_name, size, connections, seconds):
    """wrk: as many requests as go through. Its threads leave half of the cores to the others."""
    threads = min(connections, max(1, (os.cpu_count() or 1) // 2), 8)
    command = [tool("wrk", "wrk"), f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
    command += ["-s", os.path.join(HERE, "post.lua"), f"{target.url}{PATH}?answer={size_name}"]
    seed = time.time_ns() % 1_000_000_007
    before = target.cpu()
    said = run(command + ["--", str(size), str(seed)])
    cpu = target.cpu() - before
    found = json.loads(said.strip().splitlines()[-1])
    count = found["requests"]
    failed = {why: found[why] for why in ("connect", "read", "write", "status", "timeout") if found[why]}
    if count == 0 or failed:
        raise Failed(f"{target.name}: {count} answers, failures: {failed or 'none'}")
    if found["bytes"] < count * size:
        raise Failed(f"{target.name}: {found['bytes']} bytes are too few for {count} answers of {size}")
    return {
        "requests": count,
        "requests_per_s": count / (found["microseconds"] / 1e6),
        "cpu_s_per_1000": cpu / count * 1000,
        "p50_us": found["p50_us"],
        "p99_us": found["p99_us"],
    }


def streams(target, seconds, home):
    """h2load: a number of paced streams, all read to their end, for about so many seconds."""
    each = max(1, round(seconds / (EVENTS * PACE_MS / 1000)))
    count = CONNECTIONS * each
    body = os.path.join(home, "stream-body.json")
    with open(body, "wb") as file:
        file.write(BODY)
    command = [tool("h2load", "nghttp2-client"), "--h1", "-t1", f"-c{CONNECTIONS}", f"-n{count}", "-d", body]
    command += ["-H", "content-type: application/json", target.streams_url + PATH]
    before, began = target.cpu(), time.monotonic()
    said = run(command)
    took, cpu = time.monotonic() - began, target.cpu() - before
    whole = re.search(r"status codes: (\d+) 2xx", said)
    failed = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", said)
    if not whole or int(whole[1]) != count or not failed or any(int(n) for n in failed.groups()):
        raise Failed(f"{target.name}: not all of {count} streams came whole; h2load says:\n{said}")
    return {"streams": count, "streams_per_s": count / took, "cpu_s_per_1000": cpu / count * 1000}


def first_bytes(target, seconds):
    """Times to the first event of streams one after the other on one connection, each read to its end."""
    url = urllib.parse.urlsplit(target.streams_url)
    request = (
        f"POST {url.path}{PATH} HTTP/1.1\r\nhost: {url.netloc}\r\ncontent-type: application/json\r\n"
        f"x-bench-burst: 1\r\ncontent-length: {len(BODY)}\r\n\r\n"
    ).encode() + BODY
    times = []
    with socket.create_connection((url.hostname, url.port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + seconds
        while time.monotonic() < end or len(times) < 20:
            began = time.perf_counter()
            connection.sendall(request)
            answer, seen = b"", False
            while not answer.endswith(b"\r\n0\r\n\r\n"):
                piece = connection.recv(65536)
                if not piece:
                    raise Failed(f"{target.name}: a stream broke off")
                answer += piece
                if not seen and b"data: " in answer:
                    times.append((time.perf_counter() - began) * 1e6)
                    seen = True
            # A proxy may cut chunks anew, in the middle of an event, too.
            events = joined(answer.partition(b"\r\n\r\n")[2]).count(b"data: ")
            if events != EVENTS:
                raise Failed(f"{target.name}: {events} events of {EVENTS} in a stream")
    times.sort()
    return {"streams": len(times), "p50_us": rank(times, 0.5), "p99_us": rank(times, 0.99)}


def joined(chunks):
    """A chunked body without its framing (RFC 9112, section 7.1)."""
    whole = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        whole += rest[:length]
        chunks = rest[length + 2 :]
    return whole


def rank(ordered, share):
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]
