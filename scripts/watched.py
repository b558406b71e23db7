#!/usr/bin/env python3
"""Runs a command of tests and passes its output on; where it falls silent, says what still runs, and ends it.

    watched.py SECONDS CMD…

A test that hangs says nothing, and the time limit of whoever started the run ends it without a name. After SECONDS without a
line this prints the tests that were announced as long and did not end, every process of the run and what its threads
wait for (the test runner names a thread after its test), ends all of them, and exits with 124.
"""
import os
import re
import signal
import subprocess
import sys
import threading
import time

LONG = re.compile(rb"^test (\S+) has been running for over")
DONE = re.compile(rb"^test (\S+) (?:- should panic )?\.\.\. ")


def threads(pid):
    """Name and kernel wait point of each thread."""
    for task in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        with open(f"/proc/{pid}/task/{task}/comm") as comm, open(f"/proc/{pid}/task/{task}/wchan") as wait:
            yield f"{comm.read().strip()} ({wait.read() or 'runs'})"


def processes(group):
    """(pid, command line) of the process group."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getpgid(int(pid)) == group:
                with open(f"/proc/{pid}/cmdline", "rb") as line:
                    yield int(pid), line.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except (ProcessLookupError, FileNotFoundError):
            continue


def tell(limit, group, unfinished):
    print(f"\nwatched: no line for {limit} s", flush=True)
    for name in sorted(unfinished):
        print(f"watched: not ended: {name.decode()}")
    for pid, command in sorted(processes(group)):
        print(f"watched: process {pid}: {command[:300]}")
        try:
            print(f"watched:   threads: {', '.join(threads(pid))[:4000]}")
        except (ProcessLookupError, FileNotFoundError, PermissionError) as gone:
            print(f"watched:   threads: {gone}")
    sys.stdout.flush()


def main(limit, command):
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, process_group=0)
    heard, unfinished, silent = [time.monotonic()], set(), threading.Event()

    def pass_on():
        for line in child.stdout:
            heard[0] = time.monotonic()
            if match := LONG.match(line):
                unfinished.add(match[1])
            elif match := DONE.match(line):
                unfinished.discard(match[1])
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()

    def end(number, _frame=None):
        os.killpg(child.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    while child.poll() is None:
        try:
            child.wait(1)
        except subprocess.TimeoutExpired:
            if time.monotonic() - heard[0] >= limit and not silent.is_set():
                silent.set()
                tell(limit, child.pid, unfinished)
                end(signal.SIGKILL)
    reader.join(10)
    if silent.is_set():
        return 124
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
