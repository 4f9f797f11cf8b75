#!/usr/bin/env python3
"""Replays a corpus of recorded agent runs through the real binary and holds what comes out against the truth.

    check.py --remora target/release/remora --corpus DIR [--only ids,none,assembly,client]

DIR holds `replay/run_corpus.sh` and `traces/`. Standard library only; `client` needs an interpreter with the packages of
tests/clients/requirements.txt (--client-python).

  ids       all domains, sessions named; then two nights: time, clusters with lessons, commits
  none      all domains, nothing named: every answer is exported exactly once
  assembly  conversations with tools, nothing named, 8 at a time: B-cubed F1
  client    the official OpenAI client against the demo's model, and what the demo's night found

Exit status: 0, or 1 where a check failed.
"""
import argparse
import collections
import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
F1_BAR = 0.97
NIGHT_SECONDS = 180
CLUSTERS_BAR = 5


class Checks:
    """Counts what failed; each check prints its figures."""

    def __init__(self):
        self.failed = []

    def that(self, good, what):
        print(f"  {'ok    ' if good else 'FAILED'} {what}", flush=True)
        if not good:
            self.failed.append(what)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def sidecar(remora, data, upstream_port):
    """`remora run` on free ports; gives the proxy's base URL."""
    ready = data / "ready.json"
    log = open(data / "remora.log", "w")
    process = subprocess.Popen(
        [remora, "run", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--data", data / "data",
         "--upstream", f"http://127.0.0.1:{upstream_port}", "--ready-file", ready], stdout=log, stderr=log)
    try:
        for _ in range(300):
            if ready.exists() and ready.read_text().strip().endswith("}"):
                break
            if process.poll() is not None:
                sys.exit(f"remora run ended at once:\n{(data / 'remora.log').read_text()}")
            time.sleep(0.1)
        else:
            sys.exit("remora run wrote no ready file within 30 s")
        yield json.loads(ready.read_text())["proxy"]
    finally:
        stop(process)
        log.close()


def replay(o, checks, name, *arguments, feedback=None):
    """One run through a fresh sidecar; gives its folder, the truth and the export."""
    print(f"{name}: {' '.join(arguments)}", flush=True)
    folder = o.work / name
    folder.mkdir(parents=True)
    port = free_port()
    with sidecar(o.remora, folder, port) as proxy:
        command = [o.corpus / "replay" / "run_corpus.sh", "--proxy", f"{proxy}/v1", "--upstream-port", str(port),
                   "--concurrency", "8", "--stream-share", "0.5", "--run", name, "--data", o.corpus / "traces",
                   "--max-seconds", "600", "--out", folder, *arguments]
        if feedback:
            command += ["--feedback-url", f"{proxy}/remora/v1/feedback", "--feedback-share", str(feedback)]
        with open(folder / "replay.log", "w") as log:
            status = subprocess.run(command, stdout=log, stderr=log).returncode
    summary = json.loads((folder / "summary.json").read_text() or "{}")
    checks.that(status == 0 and summary.get("mismatched") == 0,
                f"{name}: {summary.get('turns')} turns, {summary.get('mismatched')} mismatches (exit {status})")
    export = folder / "export.jsonl"
    with open(export, "w") as out:
        subprocess.run([o.remora, "export", "trajectories", "--data", folder / "data"], stdout=out, check=True)
    truth = [json.loads(line) for line in open(folder / "truth.jsonl")]
    exported = [json.loads(line) for line in open(export)]
    once(checks, name, truth, exported)
    return folder, truth, exported


def once(checks, name, truth, exported):
    seen = collections.Counter(r for row in exported for r in row["response_ids"])
    wanted = [r for row in truth for r in row["response_ids"]]
    wrong = [r for r in wanted if seen[r] != 1]
    checks.that(bool(wanted) and not wrong,
                f"{name}: {len(wanted)} answers of {len(truth)} conversations, {len(wrong)} not exported exactly once")


def bcubed_f1(truth, exported):
    """B-cubed F1 of the exported trajectories over the answers (Bagga & Baldwin 1998); a missing one stands alone."""
    owner = {r: row["trajectory_id"] for row in exported for r in row["response_ids"]}
    pairs = [(key, owner.get(r, r)) for key, row in enumerate(truth) for r in row["response_ids"]]
    both = collections.Counter(pairs)
    true, found = collections.Counter(t for t, _ in pairs), collections.Counter(f for _, f in pairs)
    precision = sum(n * n / found[f] for (_, f), n in both.items()) / len(pairs)
    recall = sum(n * n / true[t] for (t, _), n in both.items()) / len(pairs)
    return 2 * precision * recall / (precision + recall)


def night(o, folder):
    """Runs one; gives its seconds and the learned repository's commits."""
    started = time.monotonic()
    subprocess.run([o.remora, "dream", "--data", folder / "data"], check=True, stdout=subprocess.DEVNULL)
    seconds = time.monotonic() - started
    commits = {}
    for repository in sorted((folder / "data" / "learned").glob("*/.git")):
        count = subprocess.run(["git", "-C", repository.parent, "rev-list", "--count", "--all"],
                               capture_output=True, text=True, check=True).stdout
        commits[repository.parent.name] = int(count)
    return seconds, commits


def taught_clusters(folder):
    """Clusters that have lessons with evidence that can be followed: {title: lessons}."""
    db = sqlite3.connect(f"file:{folder / 'data' / 'insight.db'}?mode=ro", uri=True)
    known = {row[0].hex() for row in db.execute("SELECT id FROM trajectory")}
    rows = db.execute("SELECT c.title, l.text, l.evidence FROM lesson l JOIN cluster c ON c.id = l.cluster_id "
                      "WHERE l.state != 'retired' ORDER BY c.size DESC")
    taught = collections.defaultdict(list)
    for title, text, evidence in rows:
        ids = json.loads(evidence)
        if ids and all(i.removeprefix("tr_") in known for i in ids):
            taught[title].append(text)
    return taught


def run_ids(o, checks):
    folder, _, _ = replay(o, checks, "ids", "--n", str(o.n), "--session", "header,metadata,traceparent", feedback=0.3)
    seconds, first = night(o, folder)
    checks.that(seconds < NIGHT_SECONDS, f"ids: the night took {seconds:.1f} s (bar {NIGHT_SECONDS} s)")
    taught = taught_clusters(folder)
    checks.that(len(taught) >= CLUSTERS_BAR, f"ids: {len(taught)} clusters with lessons (bar {CLUSTERS_BAR})")
    for title, lessons in list(taught.items())[:10]:
        print(f"           {title}: {lessons[0][:120]}")
    _, second = night(o, folder)
    checks.that(sum(first.values()) >= 1 and first == second, f"ids: commits after night one {first}, night two {second}")


def run_none(o, checks):
    replay(o, checks, "none", "--n", str(o.n), "--session", "none")


def run_assembly(o, checks):
    _, truth, exported = replay(o, checks, "assembly", "--n", str(o.n), "--session", "none",
                                "--domain", "tau-*,intercode-*")
    f1 = bcubed_f1(truth, exported)
    checks.that(f1 >= F1_BAR, f"assembly: B-cubed F1 {f1:.4f} (bar {F1_BAR})")


def run_client(o, checks):
    print("client: the official client through the demo's proxy", flush=True)
    data = o.work / "client"
    data.mkdir(parents=True)
    with open(data / "demo.log", "w") as log:
        demo = subprocess.Popen([o.remora, "demo", "--json", "--data", data / "data"],
                                stdout=subprocess.PIPE, stderr=log, text=True)
        timer = threading.Timer(240, demo.kill)
        timer.start()
        try:
            line = next((line for line in demo.stdout if line.startswith("{")), None)
            if line is None:
                checks.that(False, f"client: the demo printed no JSON object, see {data / 'demo.log'}")
                return
            report = json.loads(line)
            found = [c for c in report["night"]["clusters"] if c["lessons"]]
            checks.that(len(found) >= CLUSTERS_BAR, f"client: the demo's night found {len(found)} clusters with lessons")
            status = subprocess.run([o.client_python, HERE.parent / "clients" / "openai_client.py",
                                     "--base-url", f"{report['proxy']}/v1"]).returncode
            checks.that(status == 0, f"client: exit {status}")
        finally:
            timer.cancel()
            stop(demo)


RUNS = {"ids": run_ids, "none": run_none, "assembly": run_assembly, "client": run_client}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--remora", type=pathlib.Path, required=True, help="the binary")
    p.add_argument("--corpus", type=pathlib.Path, help="folder with replay/ and traces/; needed by all but client")
    p.add_argument("--only", default=",".join(RUNS), help="runs, with commas (default: all)")
    p.add_argument("--n", type=int, default=640, help="conversations a run (default 640)")
    p.add_argument("--client-python", default=sys.executable, help="interpreter with the openai package")
    p.add_argument("--keep", type=pathlib.Path, help="work here and leave everything (default: a temporary folder)")
    o = p.parse_args()
    wanted = o.only.split(",")
    if unknown := set(wanted) - set(RUNS):
        p.error(f"unknown run: {', '.join(sorted(unknown))}")
    if o.corpus is None and wanted != ["client"]:
        p.error("--corpus is needed")
    o.remora = o.remora.resolve()
    o.work = (o.keep or pathlib.Path(tempfile.mkdtemp(prefix="remora-corpus-"))).resolve()
    checks = Checks()
    try:
        for name in wanted:
            started = time.monotonic()
            RUNS[name](o, checks)
            print(f"  ({name}: {time.monotonic() - started:.0f} s)", flush=True)
    finally:
        if checks.failed or o.keep:
            print(f"left in {o.work}")
        else:
            shutil.rmtree(o.work, ignore_errors=True)
    print(f"corpus: {len(checks.failed)} checks failed" if checks.failed else "corpus: all checks passed")
    return 1 if checks.failed else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
