"""Fills the disk below a running Remora and frees it again, under traffic; called by disk_full.sh.

Claims: every answer arrives byte for byte, no slower than before; each exchange is recorded or counted as lost;
recording goes on by itself when there is space; the databases stay sound; what is recorded is exact.
"""

import argparse
import hashlib
import http.client
import http.server
import json
import pathlib
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

CLIENTS = 4
# A phase that has not reached its end after so many requests is broken.
MOST = 20_000


def answer_to(request: bytes) -> bytes:
    """Random by the request, so that it does not compress, and of a length that differs."""
    draw = random.Random(request)
    message = {"role": "assistant", "content": draw.randbytes(draw.randrange(3000)).hex()}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"id": draw.randbytes(8).hex(), "object": "chat.completion", "choices": [choice]}).encode()


class Upstream(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise head and body wait for each other's acknowledgement.
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        answer = answer_to(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_) -> None:
        pass


class Client:
    """Sends requests one after another over one connection and compares every byte of what comes."""

    def __init__(self, port: int, name: str) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self.connection.connect()
        self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.name = name
        self.sent = 0

    def request(self, n: int) -> bytes:
        return json.dumps({"model": "m", "tag": f"{self.name}-{n}"}).encode()

    def ask(self) -> float:
        request = self.request(self.sent)
        expected = answer_to(request)
        begun = time.perf_counter()
        self.connection.request("POST", "/v1/chat/completions", request)
        response = self.connection.getresponse()
        body = response.read()
        took = time.perf_counter() - begun
        self.sent += 1
        assert response.status == 200 and body == expected, f"{self.name}: {response.status}, {len(body)} bytes"
        return took


class Proxy:
    def __init__(self, binary: str, data: pathlib.Path, scratch: pathlib.Path, upstream: str) -> None:
        self.binary, self.data = binary, data
        self.config = scratch / "remora.yaml"
        self.config.write_text("dream:\n  schedule: null\n")
        ready = scratch / "ready.json"
        self.log = open(scratch / "log", "wb")
        listen = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--upstream", upstream]
        self.process = subprocess.Popen(
            [binary, "run", *listen, "--ready-file", ready, "--data", data, "--config", self.config], stderr=self.log
        )
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, "it did not start"
            time.sleep(0.02)
        addresses = json.loads(ready.read_text())
        self.port, self.admin = (int(addresses[key].rsplit(":", 1)[1]) for key in ("proxy", "admin"))

    def counted(self) -> tuple[int, int, int]:
        """Recorded, lost, ends that did not wait for their record."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=20)
        connection.request("GET", "/metrics")
        page = connection.getresponse().read().decode()

        def total(name: str) -> int:
            return sum(int(float(v)) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE))

        return (
            total("remora_exchanges_recorded_total"),
            total("remora_exchanges_lost_total"),
            total("remora_ack_timeouts_total"),
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0

    def export(self) -> list[dict]:
        command = [self.binary, "export", "exchanges", "--data", self.data, "--config", self.config]
        return [json.loads(line) for line in subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()]


class Traffic:
    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.clients = [Client(proxy.port, f"client-{n}") for n in range(CLIENTS)]

    def sent(self) -> int:
        return sum(client.sent for client in self.clients)

    def run(self, each: int) -> list[float]:
        """So many requests of each client, all clients at once: how long they took, the shortest first."""
        took: list[float] = []
        broken: list[BaseException] = []

        def play(client: Client) -> None:
            try:
                took.extend(client.ask() for _ in range(each))
            except BaseException as error:  # told by the main thread
                broken.append(error)

        threads = [threading.Thread(target=play, args=(client,)) for client in self.clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if broken:
            raise broken[0]
        return sorted(took)

    def run_until(self, what: str, reached) -> None:
        while not reached(*self.proxy.counted()[:2]):
            assert self.sent() < MOST, f"waited in vain for {what}: {self.proxy.counted()}"
            self.run(5)


def fill(path: pathlib.Path) -> None:
    """Takes all the space that is left."""
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass


def milliseconds(took: list[float]) -> str:
    return f"p50 {took[len(took) // 2] * 1e3:.2f} ms, p99 {took[len(took) * 99 // 100] * 1e3:.2f} ms"


def check(binary: str, disk: pathlib.Path, scratch: pathlib.Path) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    filler, data = disk / "filler", disk / "data"
    # What is given back later.
    filler.write_bytes(bytes(4 << 20))
    proxy = Proxy(binary, data, scratch, f"http://127.0.0.1:{server.server_port}")
    try:
        traffic = Traffic(proxy)
        traffic.run(5)
        before = traffic.run(20)
        assert proxy.counted()[:2] == (traffic.sent(), 0), f"{proxy.counted()} of {traffic.sent()}"

        fill(disk / "rest")
        traffic.run_until("a loss", lambda recorded, lost: lost > 0)
        during = traffic.run(200)
        recorded, lost, _ = proxy.counted()
        assert lost >= CLIENTS * 100, f"the disk is not full: {recorded} recorded, {lost} lost"
        assert recorded + lost == traffic.sent(), f"{recorded} + {lost} of {traffic.sent()}"

        filler.unlink()
        (disk / "rest").unlink()
        traffic.run_until("recording to go on", lambda now, _: now > recorded)
        lost = proxy.counted()[1]
        traffic.run(10)
        recorded, lost_in_the_end, timeouts = proxy.counted()
        assert lost_in_the_end == lost, "losses although there is space"
        assert recorded + lost == traffic.sent(), f"{recorded} + {lost} of {traffic.sent()}"
        proxy.stop()
    finally:
        proxy.process.kill()

    for path in [data / "record.db", data / "insight.db", *(data / "payloads").glob("*.db")]:
        (said,) = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()
        assert said == "ok", f"{path}: {said}"
    exact = {}
    for client in traffic.clients:
        for n in range(client.sent):
            request = client.request(n)
            exact[hashlib.sha256(request).hexdigest()] = answer_to(request)
    rows = proxy.export()
    assert len({row["request_sha256"] for row in rows}) == recorded, f"{len(rows)} rows for {recorded} recorded"
    for row in rows:
        answer = exact[row["request_sha256"]]
        assert row["response_sha256"] == hashlib.sha256(answer).hexdigest(), row
        # The hash is in the row, the message comes from the kept body.
        expected = json.loads(answer)["choices"][0]["message"]["content"]
        assert row["assembled"]["choices"][0]["message"]["content"] == expected, row

    print(f"disk full: {traffic.sent()} sent = {recorded} recorded + {lost} lost, all answers exact")
    print(f"  with space {milliseconds(before)}; full {milliseconds(during)}; {timeouts} ends did not wait")
    # Of several causes of waiting: a recorder that holds ends back would show as its bound, 250 ms.
    slower = during[len(during) // 2] > 2 * before[len(before) // 2] + 0.002 or during[len(during) * 99 // 100] > 0.2
    assert not slower, "slower on a full disk"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--remora", required=True)
    parser.add_argument("--disk", required=True, type=pathlib.Path, help="an empty file system of a few MB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        try:
            check(options.remora, options.disk, pathlib.Path(scratch))
        except BaseException:
            sys.stderr.write((pathlib.Path(scratch) / "log").read_text()[-4000:])
            raise


if __name__ == "__main__":
    main()
