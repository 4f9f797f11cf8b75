#!/usr/bin/env python3
"""What the proxy costs: Remora beside nginx, and envoy where there is one, under the same load. See README.md."""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True

import load
import report
import targets as t
from processes import Failed, Processes, resident_bytes, tool

ROOT = os.path.dirname(os.path.dirname(t.HERE))
RECORDING, PLAIN = "remora", "remora-off"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    remora = os.path.join(ROOT, "target", "release", "remora")
    parser.add_argument("--remora", metavar="PATH", default=remora, help="the binary (default: target/release/remora)")
    parser.add_argument("--rounds", metavar="N", type=positive, default=5, help="default: 5")
    parser.add_argument("--seconds", metavar="S", type=positive, default=10, help="of each cell (default: 10)")
    parser.add_argument("--sustained", metavar="S", type=positive, help="one more cell of so many seconds, each once")
    parser.add_argument("--with-envoy", metavar="PATH", help="an envoy binary to compare with")
    parser.add_argument("--json", metavar="FILE", help="every sample, and the medians")
    parser.add_argument("--work", metavar="DIR", help="where the temporary folder is made (default: the system's)")
    parser.add_argument(
        "--patience", metavar="S", type=positive, default=600, help="how long deferred work is waited for (default: 600)"
    )
    return parser.parse_args()


def positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def first_line(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "?")


def machine():
    model = "?"
    with open("/proc/cpuinfo") as file:
        for line in file:
            if line.lower().startswith(("model name", "hardware")):
                model = line.partition(":")[2].strip()
                break
    return {"cpu": model or "?", "cores": os.cpu_count(), "kernel": platform.release()}


def versions(options):
    found = {
        "remora": first_line(options.remora, "--version").rpartition(" ")[2],
        "nginx": first_line(tool("nginx", "nginx"), "-v").rpartition("/")[2],
        "wrk": first_line(tool("wrk", "wrk"), "-v").partition(" ")[2].partition(" ")[0],
        "h2load": first_line(tool("h2load", "nghttp2-client"), "--version").rpartition("/")[2],
    }
    if options.with_envoy:
        version = first_line(options.with_envoy, "--version").rpartition("version: ")[2]
        found["envoy"] = "/".join(version.split("/")[1:2]) or version
    return found


def executable(path, what):
    if not os.access(path, os.X_OK) or os.path.isdir(path):
        raise Failed(f"{path} is no {what} that can be run")


def check_tools(options):
    """All that is missing at once."""
    missing = []
    for name, package in (("nginx", "nginx"), ("wrk", "wrk"), ("h2load", "nghttp2-client")):
        try:
            tool(name, package)
        except Failed:
            missing.append((name, package))
    if missing:
        names, packages = (" ".join(column) for column in zip(*missing))
        raise Failed(f"missing: {names}. Install with: apt-get install --no-install-recommends {packages}")
    if not os.path.exists(options.remora):
        raise Failed(f"{options.remora} does not exist: build it (cargo build --release) or name one with --remora")
    executable(options.remora, "Remora")
    if options.with_envoy:
        executable(options.with_envoy, "envoy")


def start(options, processes, home):
    bodies, streams = t.upstreams(processes, home)
    direct = t.Target("direct", f"http://127.0.0.1:{bodies}", f"http://127.0.0.1:{streams}/streams")
    found = [direct, t.nginx_proxy(processes, home, bodies, streams)]
    if options.with_envoy:
        found.append(t.envoy_proxy(processes, home, options.with_envoy, bodies, streams))
    for name, capture in ((RECORDING, True), (PLAIN, False)):
        found.append(t.remora_proxy(processes, home, options.remora, name, capture, bodies, streams))
    return found


class Bench:
    def __init__(self, options, home, found):
        self.options, self.home, self.targets = options, home, found
        self.samples = []

    def cell(self, name, number, target, action):
        """One sample, with what a recording Remora puts off counted until it is done."""
        before = target.cpu()
        sample = {"round": number, "cell": name, "target": target.name, **action()}
        if target.remora:
            count = sample.get("requests") or sample["streams"]
            settled, rest = t.wait_until_at_rest(target, self.options.patience)
            for key, until in (("cpu_settled_s_per_1000", settled), ("cpu_rest_s_per_1000", rest)):
                sample[key] = None if until is None else (until - before) / count * 1000
        self.samples.append(sample)

    def rounds(self):
        seconds = self.options.seconds
        cells = [
            ("one", lambda target: load.requests(target, "1k", t.SIZES["1k"], 1, seconds)),
            ("1k", lambda target: load.requests(target, "1k", t.SIZES["1k"], load.CONNECTIONS, seconds)),
            ("32k", lambda target: load.requests(target, "32k", t.SIZES["32k"], load.CONNECTIONS, seconds)),
            ("first", lambda target: load.first_bytes(target, seconds)),
            ("streams", lambda target: load.streams(target, seconds, self.home)),
        ]
        for number in range(1, self.options.rounds + 1):
            for name, action in cells:
                say(f"round {number} of {self.options.rounds}: {name}")
                # Every round begins with another one, so that none always runs after the same.
                turn = (number - 1) % len(self.targets)
                for target in self.targets[turn:] + self.targets[:turn]:
                    self.cell(name, number, target, lambda: action(target))

    def sustained(self):
        seconds = self.options.sustained
        for target in self.targets:
            say(f"sustained: {target.name}")
            action = lambda: load.requests(target, "1k", t.SIZES["1k"], load.CONNECTIONS, seconds)
            self.cell("sustained", 1, target, action)

    def memory(self):
        for target in self.targets:
            if target.pid:
                rss = resident_bytes(target.pid) / 2**20
                self.samples.append({"round": 1, "cell": "memory", "target": target.name, "rss_mib": rss})


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def remarks(bench, machine_is):
    lines = [
        f"(*) limited by the upstream, which paces its chunks by {load.PACE_MS} ms: compare the CPU, not the rate.",
        "In brackets: ratio to nginx in the same round, median. Added: what is above the upstream alone.",
        f"Load generator, upstreams and proxy share {machine_is['cores']} cores.",
    ]
    recording = next(target for target in bench.targets if target.remora)
    losses = recording.remora.losses()
    rows = recording.remora.rows()
    said = ", ".join(f"{name} {count}" for name, count in losses.items()) or "nothing lost, cut or late"
    lines.append(f"Recorded: {rows:,} exchanges; {said}.")
    late = sum(s.get(key, 0) is None for s in bench.samples for key in report.LATER)
    if late:
        lines.append(f"Not at rest within --patience {bench.options.patience} s: {late} times; these are left out.")
    answered = sum(s.get("requests") or s.get("streams", 0) for s in bench.samples if s["target"] == recording.name)
    counted = sum(count for name, count in losses.items() if name.startswith("remora_exchanges_lost"))
    if rows + counted < answered:
        raise Failed(f"{answered:,} exchanges were answered, but {rows:,} are recorded and {counted:,} counted as lost")
    return lines


def main():
    options = arguments()
    check_tools(options)
    about = {"machine": machine(), "versions": versions(options)}
    home = tempfile.mkdtemp(prefix="remora-bench-", dir=options.work)
    processes = Processes(home)
    try:
        found = start(options, processes, home)
        for target in found:
            load.check(target, t.SIZES)
        say("warming up")
        for target in found:
            load.requests(target, "1k", t.SIZES["1k"], load.CONNECTIONS, 1)
            if target.remora:
                t.wait_until_at_rest(target, options.patience)
        bench = Bench(options, home, found)
        bench.rounds()
        if options.sustained:
            bench.sustained()
        bench.memory()
        notes = remarks(bench, about["machine"])
    finally:
        processes.stop()
        shutil.rmtree(home, ignore_errors=True)
    names = [target.name for target in found]
    result = report.summary(bench.samples, names)
    print(f"{about['machine']['cpu']}, {about['machine']['cores']} cores, Linux {about['machine']['kernel']}")
    print("; ".join(f"{name} {version}" for name, version in about["versions"].items()))
    print(f"Rounds: {options.rounds}; seconds a cell: {options.seconds}\n")
    print(report.table(result, names))
    print("\n" + "\n".join(notes))
    if options.json:
        settings = {"rounds": options.rounds, "seconds": options.seconds, "sustained": options.sustained}
        with open(options.json, "w") as file:
            json.dump({**about, "settings": settings, "medians": result, "samples": bench.samples}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    # As an exception, so that everything is stopped and cleared away.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        main()
    except Failed as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
