"""The two upstreams and the proxies before them: their configuration, and how each is started."""

import json
import os
import sqlite3
import time
import urllib.request

from processes import Failed, cpu_seconds, free_port, listening, tool

HERE = os.path.dirname(os.path.abspath(__file__))
SIZES = {"1k": 1024, "32k": 32 * 1024}

# Both nginx: no logs, bodies in memory, connections kept. `user` is only for root, whose workers would otherwise be
# nobody's and could not read the folder.
NGINX = """
daemon off; {user} worker_processes {workers}; pid {home}/{name}.pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off; default_type application/json; tcp_nodelay on; server_tokens off;
    client_max_body_size 64m; client_body_buffer_size 1m;
    keepalive_requests 100000000; keepalive_timeout 1h;
    client_body_temp_path {home}/{name}-body; proxy_temp_path {home}/{name}-proxy;
    fastcgi_temp_path {home}/{name}-fastcgi; uwsgi_temp_path {home}/{name}-uwsgi; scgi_temp_path {home}/{name}-scgi;
    {rest}
}}
"""

# A static file answers no POST. `mirror` makes nginx read the whole body before it comes to that (without it, it would
# answer while the body is still on its way); the 405 that follows is then turned into the file.
UPSTREAM = """
    sendfile on; open_file_cache max=16;
    map $arg_answer $answer {{ 32k 32k; default 1k; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024; root {answers};
        location / {{ mirror /read; try_files /1k =404; error_page 405 =200 /answers/$answer; }}
        location = /read {{ internal; mirror off; return 204; }}
        location /answers/ {{
            internal; mirror off; alias {answers}/;
            add_header x-bench-read $request_length;
        }}
    }}
"""

PROXY = """
    upstream bodies {{ server 127.0.0.1:{bodies}; keepalive 256; keepalive_requests 100000000; }}
    upstream streams {{ server 127.0.0.1:{streams}; keepalive 256; keepalive_requests 100000000; }}
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host; proxy_buffering off;
    proxy_read_timeout 1h;
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{ proxy_pass http://bodies; }}
        location /streams/ {{ proxy_pass http://streams; }}
    }}
"""

# JSON is YAML. Nothing is to happen but recording and what follows from it: no night, nothing fetched. Trajectories are
# judged soon after, so that this work is counted with the cell that caused it and does not disturb a later one.
REMORA = {
    "trajectories": {"quiet": "1s"},
    "search": {"embedder": "lexical"},
    "onnx": {"fetch": "never"},
    "dream": {"schedule": None},
    "log": {"filter": "warn"},
}


class Target:
    """Where load is sent; `pid` is the proxy's, none for the upstream itself."""

    def __init__(self, name, url, streams_url, pid=None):
        self.name, self.url, self.streams_url, self.pid = name, url, streams_url, pid
        self.remora = None

    def cpu(self):
        return cpu_seconds(self.pid) if self.pid else 0.0


class Remora:
    """What a recording Remora says of itself."""

    def __init__(self, admin, data):
        self.admin, self.data = admin, data

    def metrics(self):
        """Values by name, labels included."""
        with urllib.request.urlopen(self.admin + "/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def losses(self):
        """Counts of what is missing or cut in the record, and of ends that did not wait for it; only those above 0."""
        watched = ("remora_exchanges_lost", "remora_bodies_truncated", "remora_ack_timeouts", "remora_settle_failures")
        return {name: int(value) for name, value in self.metrics().items() if name.startswith(watched) and value}

    def rows(self):
        """Exchanges in the record: they are numbered, and none is deleted on its first day."""
        path = os.path.join(self.data, "record.db")
        if not os.path.exists(path):
            return 0
        record = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
        try:
            return record.execute("SELECT coalesce(max(seq), 0) FROM exchange").fetchone()[0]
        finally:
            record.close()

    def settled(self):
        """Whether all that was recorded is in the record. The journal's gauge is as old as the last look at the
        journal, so its zero alone proves nothing."""
        metrics = self.metrics()
        if metrics.get("remora_journal_bytes", 0) > 0 or metrics.get("remora_in_flight", 0) > 0:
            return False
        given_up = metrics.get('remora_exchanges_lost_total{reason="refused"}', 0)
        return self.rows() + given_up >= metrics.get("remora_exchanges_recorded_total", 0)


def answers(home):
    """The files that the upstream answers with: chat completions of exactly these sizes."""
    folder = os.path.join(home, "answers")
    os.mkdir(folder)
    for name, size in SIZES.items():
        def body(text):
            message = {"role": "assistant", "content": text}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 30}
            whole = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1, "model": "bench"}
            return json.dumps({**whole, "choices": [choice], "usage": usage}).encode()

        filler = "the quick brown fox jumps over the lazy dog " * (size // 40)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(body(filler[: size - len(body(""))]))
        assert os.path.getsize(file.name) == size
    return folder


def nginx(processes, home, name, rest, port):
    path = os.path.join(home, name + ".conf")
    user = "user root;" if os.geteuid() == 0 else ""
    with open(path, "w") as file:
        file.write(NGINX.format(user=user, workers="auto", home=home, name=name, rest=rest))
    return processes.start(name, [tool("nginx", "nginx"), "-p", home, "-c", path], listening(port))


def upstreams(processes, home):
    port = free_port()
    rest = UPSTREAM.format(port=port, answers=answers(home))
    nginx(processes, home, "upstream", rest, port)
    port_file = os.path.join(home, "streams.port")
    script = os.path.join(HERE, "stream_upstream.py")
    processes.start("streams", [tool("python3", "python3"), script, port_file], lambda: os.path.exists(port_file))
    with open(port_file) as file:
        return port, int(file.read())


def nginx_proxy(processes, home, bodies, streams):
    port = free_port()
    rest = PROXY.format(port=port, bodies=bodies, streams=streams)
    pid = nginx(processes, home, "nginx", rest, port)
    return Target("nginx", f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/streams", pid)


def envoy_proxy(processes, home, binary, bodies, streams):
    port = free_port()

    def address(number):
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    def cluster(name, number):
        endpoint = {"lb_endpoints": [{"endpoint": {"address": address(number)}}]}
        assignment = {"cluster_name": name, "endpoints": [endpoint]}
        most = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
        breakers = {"thresholds": [most]}
        return {"name": name, "type": "STATIC", "load_assignment": assignment, "circuit_breakers": breakers}

    def route(prefix, name):
        return {"match": {"prefix": prefix}, "route": {"cluster": name, "timeout": "0s"}}

    package = "type.googleapis.com/envoy.extensions.filters"
    hosts = {"name": "all", "domains": ["*"], "routes": [route("/streams/", "streams"), route("/", "bodies")]}
    router = {"@type": package + ".http.router.v3.Router"}
    manager = {
        "@type": package + ".network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": [hosts]},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    filters = [{"name": "http", "typed_config": manager}]
    listener = {"name": "bench", "address": address(port), "filter_chains": [{"filters": filters}]}
    clusters = [cluster("bodies", bodies), cluster("streams", streams)]
    path = os.path.join(home, "envoy.json")
    with open(path, "w") as file:
        json.dump({"static_resources": {"listeners": [listener], "clusters": clusters}}, file)
    command = [binary, "-c", path, "--log-level", "error", "--disable-hot-restart"]
    pid = processes.start("envoy", command + ["--concurrency", str(os.cpu_count())], listening(port))
    return Target("envoy", f"http://127.0.0.1:{port}", f"http://127.0.0.1:{port}/streams", pid)


def remora_proxy(processes, home, binary, name, capture, bodies, streams):
    settings = os.path.join(home, name + ".yaml")
    data, ready = os.path.join(home, name), os.path.join(home, name + ".ready")
    upstream = {"url": f"http://127.0.0.1:{bodies}"}
    to_streams = {"path": "/streams", "upstream": {"url": f"http://127.0.0.1:{streams}"}}
    with open(settings, "w") as file:
        json.dump({**REMORA, "upstream": upstream, "routes": [to_streams], "capture": {"enabled": capture}}, file)
    command = [binary, "run", "--config", settings, "--data", data, "--ready-file", ready]
    command += ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    pid = processes.start(name, command, lambda: os.path.exists(ready) and os.path.getsize(ready) > 0)
    with open(ready) as file:
        says = json.load(file)
    target = Target(name, says["proxy"], says["proxy"] + "/streams", pid)
    if capture:
        target.remora = Remora(says["admin"], data)
    return target


def wait_until_at_rest(target, patience_s):
    """Waits until a recording Remora has everything in its record, then until it does nothing any more (trajectories
    joined and judged). Gives the processor time of the tree at both moments; none where patience ended."""
    limit = time.monotonic() + patience_s
    while not target.remora.settled():
        if time.monotonic() > limit:
            return None, None
        time.sleep(0.25)
    settled = before = target.cpu()
    calm = 0
    while calm < CALM_WINDOWS:
        if time.monotonic() > limit:
            return settled, None
        time.sleep(WINDOW_S)
        now = target.cpu()
        calm = calm + 1 if now - before <= IDLE_SHARE * WINDOW_S else 0
        before = now
    return settled, before


# At rest: three seconds, longer than `trajectories.every` and `quiet`, each with no more than 2 % of a core.
WINDOW_S = 1.0
CALM_WINDOWS = 3
IDLE_SHARE = 0.02
