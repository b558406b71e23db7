#!/usr/bin/env python3
"""What commits, growing state and a restart cost, on the workload of gen.py. Each command ends with one line of JSON.

    costs.py commits [--pairs 5] [--impressions 8000000]     throughput at `commit_every` 1 s and 60 s, alternating
    costs.py growth  [--impressions 8000000] [--every 1s]    bytes per commit while nothing closes and state grows
    costs.py restart [--pending 2000000] [--every 1s] [--runs 5]
                                                             kill -9 with so many rows pending; time to the first new sample
    all: [--binary target/release/conjoin] [--rate R] [--cache FOLDER]

Every result is checked: `commits` and `growth` compare the samples with the generator's, `restart` does so after its last
kill. What a commit cost is read from the manifests while they are written; times are from outside, by a clock that runs
from before the process is made.
"""
import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from run import ROOT, check, command_of, data, once

BYTES_PER_MIB = 1 << 20


class Chain:
    """The manifests of a run, read as they come."""

    def __init__(self, out):
        self.folder = os.path.join(out, "state", "manifests")
        self.known = set()

    def new(self):
        """Manifests that were not there before, oldest first; one that was deleted meanwhile is left out."""
        found = []
        for path in sorted(set(glob.glob(os.path.join(self.folder, "*.json"))) - self.known):
            try:
                with open(path) as file:
                    found.append(json.load(file) | {"manifest_bytes": os.path.getsize(path)})
            except FileNotFoundError:
                pass
            self.known.add(path)
        return found


def anchor(manifest):
    samples = manifest["counts"]["samples"]
    return samples[0]["anchor"] if samples else {"applied": 0, "pending": 0, "emitted": 0}


def load():
    return round(os.getloadavg()[0], 1)


def spread(values):
    return {"median": round(statistics.median(values), 3), "min": round(min(values), 3), "max": round(max(values), 3)}


def commits(args, folder, out):
    """Pairs of runs that differ in nothing but how often they commit."""
    ratios, bytes_per_commit, correct, by_interval = [], [], True, {"1s": [], "60s": []}
    for pair in range(args.pairs):
        order = ["1s", "60s"] if pair % 2 == 0 else ["60s", "1s"]
        speed = {}
        for every in order:
            shutil.rmtree(out, ignore_errors=True)
            before = load()
            run = once(args.binary, folder, out, settings=[f"state.commit_every={every}"])
            right, events, _ = check(folder, out, run["report"])
            correct &= right
            speed[every] = events / run["wall_s"]
            totals, count = run["report"]["totals"], run["report"]["commits"]
            copied = totals.get("state_bytes_copied", 0)
            if every == "1s":
                bytes_per_commit.append(totals["state_bytes_written"] / count)
            by_interval[every].append(run | {"commits": count, "totals": totals})
            print(
                f"pair {pair + 1}, {every:>3}: {run['wall_s']:.1f} s, {run['cpu_s']:.1f} s CPU, {speed[every] / 1e3:.0f} k events/s, "
                f"{count} commits, {totals['state_bytes_written'] / BYTES_PER_MIB:.0f} MiB of state "
                f"({copied / BYTES_PER_MIB:.0f} copied), {run['rss_mib']:.0f} MiB RSS, "
                f"load before {before}, {'exact' if right else 'WRONG'}",
                file=sys.stderr,
            )
        ratios.append(speed["1s"] / speed["60s"])
    cpu = [one["cpu_s"] / other["cpu_s"] for one, other in zip(by_interval["1s"], by_interval["60s"])]
    return {
        "throughput_1s_over_60s": spread(ratios),
        "cpu_1s_over_60s": spread(cpu),
        "commits_1s": statistics.median(run["commits"] for run in by_interval["1s"]),
        "commits_60s": statistics.median(run["commits"] for run in by_interval["60s"]),
        "mib_per_commit_1s": round(statistics.median(bytes_per_commit) / BYTES_PER_MIB, 1),
        "pairs": args.pairs,
        "correct": correct,
    }


def watch(args, folder, out, until=lambda manifest, since: False):
    """Runs once and gives every manifest with the time it was seen; ends the process by kill -9 when `until`, asked all the
    time with the newest manifest of this process, says so."""
    chain = Chain(out)
    chain.new()
    start = time.monotonic()
    command = command_of(args.binary, [f"state.commit_every={args.every}"])
    process = subprocess.Popen(command, env={**os.environ, "DATA_DIR": folder, "OUT_DIR": out}, stdout=subprocess.PIPE)
    seen, killed, alive = [], False, True
    while alive:
        alive = process.poll() is None
        seen += [manifest | {"seen_s": time.monotonic() - start} for manifest in chain.new()]
        if alive and seen and until(seen[-1], time.monotonic() - start):
            process.kill()
            killed = True
            break
        time.sleep(0.002)
    output = process.stdout.read().decode().strip()
    if process.wait() not in (0, -9):
        sys.exit(f"{' '.join(command)} failed with status {process.returncode}")
    return seen, json.loads(output.splitlines()[-1]) if not killed else None


def growth(args, folder, out):
    """Bytes per commit beside the rows that came and the rows that were there."""
    shutil.rmtree(out, ignore_errors=True)
    manifests, report = watch(args, folder, out)
    right, _, _ = check(folder, out, report)
    print("|  pending rows | rows since the last commit | bytes written | bytes per row | of them copied | objects | manifest bytes |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    rows = []
    for before, manifest in zip(manifests, manifests[1:]):
        fresh = anchor(manifest)["applied"] - anchor(before)["applied"]
        written, copied = (
            manifest["totals"].get(key, 0) - before["totals"].get(key, 0) for key in ("state_bytes_written", "state_bytes_copied")
        )
        if fresh and manifest["number"] == before["number"] + 1:
            rows.append((anchor(manifest)["pending"], fresh, written, copied, len(manifest["objects"]), manifest["manifest_bytes"]))
    for pending, fresh, written, copied, objects, size in rows[:: max(1, len(rows) // 20)]:
        print(f"| {pending:,} | {fresh:,} | {written:,} | {written / fresh:.0f} | {copied:,} | {objects} | {size:,} |")
    # The last commit closes everything: its rows need no state.
    growing = [row for row in rows if row[0] > 0]
    half = len(growing) // 2
    per_row = [sum(row[2] for row in part) / sum(row[1] for row in part) for part in (growing[:half], growing[half:])]
    return {
        "commits": len(manifests),
        "pending_max": max(row[0] for row in rows),
        "bytes_per_row_first_half": round(per_row[0], 1),
        "bytes_per_row_second_half": round(per_row[1], 1),
        "objects_max": max(row[4] for row in rows),
        "manifest_bytes_max": max(row[5] for row in rows),
        "correct": right,
    }


def visible(out):
    return set(glob.glob(os.path.join(out, "samples", "**", "*.parquet"), recursive=True))


def restart(args, folder, out):
    """Kills with so many rows pending, starts again, and looks for the first sample that was not there before."""
    shutil.rmtree(out, ignore_errors=True)
    enough = lambda manifest, _: anchor(manifest)["pending"] >= args.pending and anchor(manifest)["emitted"] > 0
    times, last_cut = [], 0
    while len(times) < args.runs:
        manifests, report = watch(args, folder, out, enough)
        if report is not None:
            sys.exit(f"only {len(times)} restarts: the input ended; take more --impressions")
        head, files, seen = manifests[-1], visible(out), {}

        def first_new(manifest, since):
            if anchor(manifest)["emitted"] > anchor(head)["emitted"]:
                seen.setdefault("sample_committed_s", round(since, 3))
            if visible(out) - files:
                seen.setdefault("sample_file_s", round(since, 3))
            return len(seen) == 2

        manifests, report = watch(args, folder, out, first_new)
        if report is not None:
            sys.exit("the input ended before a new sample was seen; take more --impressions")
        times.append({
            "pending": anchor(head)["pending"],
            "commits_before": head["cut"] - last_cut,
            "objects": len(head["objects"]),
            "claimed_s": round(manifests[0]["seen_s"], 3),
        } | seen)
        last_cut = head["cut"]
        print(f"{times[-1]}, load {load()}", file=sys.stderr)
    _, report = watch(args, folder, out)
    right, _, _ = check(folder, out, report)
    return {
        "sample_committed_s": spread([one["sample_committed_s"] for one in times]),
        "sample_file_s": spread([one["sample_file_s"] for one in times]),
        "pending": min(one["pending"] for one in times),
        "objects": max(one["objects"] for one in times),
        "restarts": len(times),
        "correct": right,
    }


# A rate at which nothing closes before the end, or, for restarts, at which so many rows are pending all the time.
RATES = {"commits": 20_000, "growth": 20_000, "restart": 2_000}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=RATES)
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "release", "conjoin"))
    parser.add_argument("--impressions", type=int, default=8_000_000)
    parser.add_argument("--rate", type=int)
    parser.add_argument("--every", default="1s", help="commit_every of growth and restart")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--pending", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cache", default=os.environ.get("CONJOIN_CACHE", os.path.expanduser("~/.cache/conjoin")))
    args = parser.parse_args()
    rate = args.rate or RATES[args.command]
    folder, out = data(args.cache, rate, args.impressions), os.path.join(args.cache, "bench-out")
    measure = {"commits": commits, "growth": growth, "restart": restart}[args.command]
    result = {"rate": rate, "impressions": args.impressions} | measure(args, folder, out)
    shutil.rmtree(out, ignore_errors=True)
    print(json.dumps(result))
    sys.exit(0 if result["correct"] else 1)


if __name__ == "__main__":
    main()
