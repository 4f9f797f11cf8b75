"""Child processes and what they cost."""

import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

# Waiting threads of OpenMP burn cycles that would be counted as work; ONNX Runtime's do not spin in Remora either.
ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "KMP_BLOCKTIME": "0",
    # The stock library reports the machine to its maker, unless this is set before it is loaded.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
    "RUST_BACKTRACE": "0",
}


class Failed(Exception):
    """A child ended otherwise than it should; the message shows the end of what it said."""


def engine(given=None):
    """Path of the example binary that runs Remora's engine."""
    return built("release/examples/engine", "cargo build --release --example engine, or give --engine PATH", given)


def remora(given=None):
    """Path of Remora's own binary."""
    return built("release/remora", "cargo build --release --bin remora, or give --remora PATH", given)


def built(name, otherwise, given):
    if given:
        return str(given)
    path = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: {otherwise}")
    return str(path)


def run(command, threads=2):
    """Runs a command; returns the JSON object on the last line that it prints, with `process`: the whole life's CPU
    seconds, wall seconds and peak resident bytes, all of them and those of no mapped file."""
    environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        child = subprocess.Popen([str(part) for part in command], stdout=out, stderr=err, env=environment)
        anonymous, done = 0, 0
        while not done:
            anonymous = max(anonymous, anonymous_bytes(child.pid))
            time.sleep(0.02)
            done, status, used = os.wait4(child.pid, os.WNOHANG)
        child.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        out.seek(0)
        err.seek(0)
        lines, complaints = out.read().decode(errors="replace").splitlines(), err.read().decode(errors="replace")
    shown = " ".join(str(part) for part in command)
    if child.returncode != 0:
        raise Failed(f"{shown}\nended with {child.returncode}:\n" + "\n".join(complaints.splitlines()[-15:]))
    try:
        answer = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise Failed(f"{shown}\nprinted no JSON object on its last line: {lines[-1:]}") from error
    answer["process"] = {
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "wall_seconds": wall,
        "peak_rss_bytes": used.ru_maxrss * 1024,
        # Looked at fifty times a second, so a short peak may be missed.
        "peak_anonymous_bytes": anonymous,
    }
    return answer


def anonymous_bytes(pid):
    """Resident memory that is no mapped file."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:"))


def python(script, *arguments):
    return [sys.executable, str(HERE / script), *arguments]


def cpu_seconds():
    """User and system seconds of this process so far, all of its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def load():
    """How busy the machine is: numbers taken on a busy one say little."""
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
