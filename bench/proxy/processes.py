"""Processes that are started and surely ended, and what they cost as /proc tells it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
START_LIMIT_S = 30


class Failed(Exception):
    """The benchmark cannot go on; the message says why and what to do."""


def tool(name, package):
    """The path of a tool; names the Debian package where it is missing."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")
    if not found:
        raise Failed(f"{name} is missing: apt-get install {package}")
    return found


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Processes:
    """What was started, each in a process group of its own; `stop` ends all of it."""

    def __init__(self, logs):
        self.logs = logs
        self.running = []

    def start(self, name, command, ready):
        """Starts a command and waits until `ready()` holds."""
        log_path = os.path.join(self.logs, name + ".log")
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.running.append(process)
        limit = time.monotonic() + START_LIMIT_S
        while not ready():
            ended = process.poll() is not None
            if ended or time.monotonic() > limit:
                with open(log_path, errors="replace") as log:
                    said = log.read().strip()[-2000:]
                why = "ended at once" if ended else f"does not answer after {START_LIMIT_S} s"
                raise Failed(f"{name} {why}; it says:\n{said}")
            time.sleep(0.02)
        return process.pid

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in self.running:
                try:
                    os.killpg(process.pid, number)
                except ProcessLookupError:
                    pass
            # A group may outlive its leader: the second round ends what is left of it.
            limit = time.monotonic() + 10
            for process in self.running:
                try:
                    process.wait(max(0, limit - time.monotonic()))
                except subprocess.TimeoutExpired:
                    print(f"process {process.pid} does not end and is killed", file=sys.stderr)
        self.running = []


def listening(port):
    def ready():
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    return ready


def _stat(pid):
    """Fields after the command's name, from the state on; none of a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree(root):
    """The process and all that descend from it."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (stat := _stat(entry)):
            parents.setdefault(int(stat[1]), []).append(int(entry))
    found, open_ends = [], [root]
    while open_ends:
        pid = open_ends.pop()
        found.append(pid)
        open_ends += parents.get(pid, [])
    return found


def cpu_seconds(root):
    """User and system time of the process tree, of children that ended too."""
    stats = [stat for pid in tree(root) if (stat := _stat(pid))]
    if not stats:
        raise Failed(f"process {root} has ended")
    return sum(int(ticks) for stat in stats for ticks in stat[11:15]) / TICK


def resident_bytes(root):
    """Resident memory of the process tree; pages that its processes share count for each."""
    page = os.sysconf("SC_PAGE_SIZE")
    return sum(int(stat[21]) * page for pid in tree(root) if (stat := _stat(pid)))
