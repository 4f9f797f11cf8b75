#!/usr/bin/env python3
"""Remora serving several requests with several adapters, and adapters that change under load.

    serve_load.py batch|swap --gguf FILE.gguf --cache DIR [--remora PATH | --url http://127.0.0.1:4143]

`batch`: 8 requests with 4 adapters at once, against one after the other: tokens a second, and the same text.
`swap`: adapters are loaded, replaced and unloaded while requests run: failed requests, milliseconds a change, and
whether the next request gets the adapter that was put there.
Exits with 1 when a target is missed.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse

import transformers
from safetensors.torch import save_file

import cases
import model
import process

BASE = "bench-base"


class Server:
    """`remora serve` on a free port, or one that runs already."""

    def __init__(self, args, scratch):
        self.child = None
        if args.url:
            self.address, self.base = urllib.parse.urlsplit(args.url).netloc, args.base
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        self.base = BASE
        config = scratch / "remora.yaml"
        settings = {
            "model": str(args.gguf), "names": [BASE], "listen": self.address, "threads": args.threads, "slots": 8,
            "context": 512,
        }
        config.write_text(json.dumps({"serve": settings}))
        command = [process.remora(args.remora), "serve", "--config", str(config), "--data", str(scratch / "data"), *args.serve_arg]
        self.log = open(scratch / "serve.log", "w+")
        self.child = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.wait()

    def wait(self):
        for _ in range(600):
            if self.child.poll() is not None:
                break
            try:
                if self.call("GET", "/v1/models")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        self.log.seek(0)
        self.stop()
        raise SystemExit("remora serve did not come up:\n" + self.log.read()[-2000:])

    def call(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=300)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None,
                               {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def complete(self, ids, model, tokens):
        """(status, text, tokens made)"""
        asked = {"model": model, "prompt": ids, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        status, body = self.call("POST", "/v1/completions", asked)
        if status != 200:
            return status, body, 0
        answer = json.loads(body)
        return status, answer["choices"][0]["text"], answer["usage"]["completion_tokens"]

    def load(self, name, folder, replace=False):
        asked = {"lora_name": name, "lora_path": str(folder)} | ({"load_inplace": True} if replace else {})
        return self.call("POST", "/v1/load_lora_adapter", asked)

    def unload(self, name):
        return self.call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def cpu_seconds(self):
        if not self.child:
            return None
        fields = pathlib.Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self):
        if self.child and self.child.poll() is None:
            self.child.terminate()
            try:
                self.child.wait(60)
            except subprocess.TimeoutExpired:
                self.child.kill()


def write_adapter(folder, config, seed, rank=16):
    """A PEFT directory of random matrices, made by hand: what Remora reads must not depend on who wrote it."""
    folder.mkdir()
    made = cases.adapter(config, rank, seed)
    tensors = {}
    for name, tensor in made.items():
        if name == "alpha":
            continue
        _, layer, projection, factor = name.split(".")
        parent = "self_attn" if projection in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
        tensors[f"base_model.model.model.layers.{layer}.{parent}.{projection}.lora_{factor}.weight"] = tensor
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    about = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": made["alpha"].item(), "lora_dropout": 0.0,
        "bias": "none", "target_modules": cases.PROJECTIONS, "base_model_name_or_path": "bench", "inference_mode": True,
    }
    (folder / "adapter_config.json").write_text(json.dumps(about))
    return folder


def batch(server, args, prompts, folders):
    """Throughput of 8 at once over that of one after the other."""
    for k in range(4):
        status, body = server.load(f"adapter-{k}", folders[k])
        if status != 200:
            raise SystemExit(f"loading an adapter: {status} {body}")
    asks = [(prompts[k], f"adapter-{k % 4}") for k in range(8)]

    def one(ask):
        return server.complete(*ask, args.new)

    def timed(workers):
        used, start = server.cpu_seconds(), time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            answers = list(pool.map(one, asks))
        wall = time.perf_counter() - start
        cpu = server.cpu_seconds() - used if used is not None else None
        bad = [answer for answer in answers if answer[0] != 200 or answer[2] != args.new]
        if bad:
            raise SystemExit(f"a request failed: {bad[0]}")
        return sum(answer[2] for answer in answers) / wall, cpu, [answer[1] for answer in answers]

    # Also warms up.
    if len({server.complete(prompts[0], f"adapter-{k}", 16)[1] for k in range(4)}) < 4:
        raise SystemExit("the adapters write the same: it could not be seen whether each request got its own")
    alone, together, rows, same = [], [], [], True
    for _ in range(args.rounds):
        a, b = timed(1), timed(8)
        alone.append(a[0])
        together.append(b[0])
        different = [k for k in range(8) if a[2][k] != b[2][k]]
        same &= not different
        rows.append({"alone": a[0], "together": b[0], "cpu_seconds": [a[1], b[1]], "different": different,
                     "load": process.load()})
        print(f"alone {a[0]:.1f} tok/s, 8 at once {b[0]:.1f} tok/s, {b[0] / a[0]:.2f}x, server CPU {a[1]} and {b[1]} s, "
              f"{8 - len(different)} of 8 texts the same ({process.load()})", flush=True)
    value = statistics.median(together) / statistics.median(alone)
    return {"measure": "batch", "value": value, "target": 2.0, "met": value >= 2.0 and same, "same": same, "rows": rows}


def swap(server, args, prompts, folders):
    """Changes of adapters while 6 clients ask: read under a name of their own, then moved to the alias, as nights do."""
    tokens = 24
    texts = []
    for folder in folders[:2]:
        server.load("probe", folder, replace=True)
        texts.append(server.complete(prompts[0], "probe", tokens)[1])
    if texts[0] == texts[1]:
        raise SystemExit("the two adapters write the same: a swap could not be seen")
    for k in range(2):
        server.load(f"steady-{k}", folders[2 + k])
    stop, lock = threading.Event(), threading.Lock()
    failures, counts, waits = [], {"requests": 0, "tokens": 0}, []

    def ask(k):
        names = [server.base, "steady-0", "steady-1", "probe", "probe", server.base]
        while not stop.is_set():
            start = time.perf_counter()
            try:
                status, text, made = server.complete(prompts[k], names[k], tokens)
            except (OSError, http.client.HTTPException, ValueError) as error:
                status, text, made = 0, repr(error), 0
            with lock:
                counts["requests"] += 1
                counts["tokens"] += made
                waits.append(time.perf_counter() - start)
                if status != 200 or made != tokens:
                    failures.append([names[k], status, text[:300]])

    clients = [threading.Thread(target=ask, args=(k,)) for k in range(6)]
    for client in clients:
        client.start()
    times = {"read": [], "move": [], "unload": [], "read and move": []}
    wrong, changes, end = [], 0, time.monotonic() + args.seconds

    def change(kind, call):
        start = time.perf_counter()
        status, body = call()
        times[kind].append((time.perf_counter() - start) * 1e3)
        if status != 200:
            failures.append([kind, status, body[:300]])

    while time.monotonic() < end:
        version = changes % 2
        change("read", lambda: server.load("version", folders[version]))
        change("move", lambda: server.load("probe", folders[version], replace=True))
        status, text, _ = server.complete(prompts[0], "probe", tokens)
        if status != 200 or text != texts[version]:
            wrong.append([status, text[:200], texts[version][:200]])
        change("unload", lambda: server.unload("version"))
        change("read and move", lambda: server.load("steady-1", folders[3 + version], replace=True))
        changes += 1
    stop.set()
    for client in clients:
        client.join()
    worst = max(times["move"] + times["unload"])
    shown = {kind: {"median": statistics.median(found), "max": max(found)} for kind, found in times.items()}
    print(f"{counts['requests']} requests, {len(failures)} failed; {changes} rounds of changes, ms: {shown}; "
          f"{len(wrong)} answers not of the adapter just put there ({process.load()})")
    for failure in failures[:5] + wrong[:5]:
        print("  ", failure)
    return {"measure": "swap", "value": worst, "target": 50.0, "failed": len(failures), "wrong": len(wrong),
            "met": worst < 50.0 and not failures and not wrong, "milliseconds": shown, **counts,
            "request_seconds": {"median": statistics.median(waits), "max": max(waits)}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=["batch", "swap"])
    parser.add_argument("--gguf", type=pathlib.Path, required=True)
    parser.add_argument("--cache", type=pathlib.Path, required=True)
    parser.add_argument("--remora", type=pathlib.Path, help="default: target/release/remora")
    parser.add_argument("--serve-arg", action="append", default=[], help="one more argument of `remora serve`")
    parser.add_argument("--url", help="a server that runs already, on this machine")
    parser.add_argument("--base", default=BASE, help="with --url: the base model's name there")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=64, help="tokens a request")
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    hf = model.prepare(args.gguf, args.cache / "hf")
    config = transformers.AutoConfig.from_pretrained(hf)
    prompts = [tensor.tolist() for tensor in cases.prompts(cases.speaker(hf), 8).values()]
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        folders = [write_adapter(scratch / f"adapter-{k}", config, seed=100 + k) for k in range(5)]
        server = Server(args, scratch)
        try:
            result = {"batch": batch, "swap": swap}[args.measure](server, args, prompts, folders)
        finally:
            server.stop()
    print(json.dumps(result))
    sys.exit(0 if result["met"] else 1)


if __name__ == "__main__":
    main()
