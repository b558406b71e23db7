#!/usr/bin/env python3
"""A window of a day with ten times `state.memory` pending: throughput beside a run in memory, and memory over time.

    spill.py [--binary target/release/conjoin] [--memory 256MB] [--times 10] [--pairs 3] [--row-bytes 2000]
             [--cache FOLDER] [--csv spill.csv]

Data: impressions of 36 hours of event time, so that the first day fills the state and the rest closes as fast as it comes.
Each has `--row-bytes` of text that does not shrink; there are so many of them per day that their text is `--times` the
memory. 10 % are clicked, after Exp(4 h). Runs alternate between `--memory` and a limit that is never reached; the samples of
all must be the same rows, and those that the generator knows. The CSV has the memory of the first run of each kind, as the
kernel counts it, and what the manifests say of it: scripts/plot-spill.py draws it. Ends with one line of JSON.
"""
import argparse
import csv
import glob
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PIPELINE = os.path.join(ROOT, "benches", "e2e", "spill.yaml")
T0_MS = 1_767_225_600_000
DAY_MS = 24 * 3_600_000
SPAN_MS = DAY_MS * 3 // 2
TEXTS = 4_096
UNLIMITED = "1TB"
MIB = 1 << 20


def generate(folder, per_day, row_bytes):
    """Writes both files and what joining them gives, unless they are there."""
    if os.path.exists(os.path.join(folder, "expected.json")):
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    rng = np.random.default_rng(42)
    texts = [rng.bytes(row_bytes // 2).hex() for _ in range(TEXTS)]
    count = per_day * 3 // 2
    ts = T0_MS + np.arange(count, dtype=np.int64) * SPAN_MS // count
    users = rng.integers(0, 20_000, count)
    clicked = np.nonzero(rng.random(count) < 0.10)[0]
    delay = rng.exponential(4 * 3_600_000, clicked.size).astype(np.int64)
    with open(os.path.join(folder, "impressions.ndjson"), "w") as file:
        for number, (at, user) in enumerate(zip(ts.tolist(), users.tolist())):
            file.write(
                f'{{"request_id":"r{number:09d}","user_id":"u{user}","ts":{at},"position":{number % 50},'
                f'"context":"{texts[number * 2_654_435_761 % TEXTS]}"}}\n'
            )
    at = ts[clicked] + delay
    order = np.argsort(at, kind="stable")
    with open(os.path.join(folder, "clicks.ndjson"), "w") as file:
        for impression, when in zip(clicked[order].tolist(), at[order].tolist()):
            file.write(
                f'{{"event_id":"c{impression:09d}","request_id":"r{impression:09d}","user_id":"u{users[impression]}","ts":{when}}}\n'
            )
    inside = delay <= DAY_MS
    expected = {
        "samples": count,
        "clicked": int(inside.sum()),
        "delay_sum": int(delay[inside].sum()),
        "events": count + clicked.size,
    }
    with open(os.path.join(folder, "expected.json"), "w") as file:
        json.dump(expected, file)


def rss_kib(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("VmRSS:")), None)
    except (FileNotFoundError, ProcessLookupError):
        return None


def newest(out):
    """What the last manifest says, if it is not just being deleted."""
    found = sorted(glob.glob(os.path.join(out, "state", "manifests", "*.json")))
    try:
        with open(found[-1]) as file:
            samples = json.load(file)["counts"]["samples"]
            return samples[0] if samples else None
    except (IndexError, FileNotFoundError, json.JSONDecodeError):
        return None


def run(args, folder, out, memory):
    """One run, watched."""
    shutil.rmtree(out, ignore_errors=True)
    command = [args.binary, "run", PIPELINE, "--json", "--set", f"state.memory={memory}"]
    begun, lines, told = time.monotonic(), [], None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen(command, env={**os.environ, "DATA_DIR": folder, "OUT_DIR": out}, stdout=subprocess.PIPE)
    while process.poll() is None:
        rss, told = rss_kib(process.pid), newest(out) or told
        if rss is not None:
            part = (told or {}).get("memory", {})
            pending = (told or {}).get("anchor", {}).get("pending", 0)
            lines.append([round(time.monotonic() - begun, 2), rss, pending] + [part.get(key, 0) for key in ("index", "labels", "payload", "spilled")])
        time.sleep(0.05)
    wall = time.monotonic() - begun
    output = process.stdout.read().decode().strip()
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)} failed with status {process.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall, "cpu_s": cpu, "lines": lines, "report": json.loads(output.splitlines()[-1])}


def result(out):
    """What a reader of the published files sees."""
    import duckdb

    files = os.path.join(out, "samples", "**", "*.parquet")
    row = duckdb.connect().execute(
        f"""SELECT count(*), count(DISTINCT request_id), count(click_ts), sum(epoch_ms(click_ts) - epoch_ms(ts)),
                   sum(hash(request_id, user_id, ts, position, context, click_ts, user_impressions_1h))
            FROM read_parquet('{files}')"""
    ).fetchone()
    return dict(zip(("samples", "distinct", "clicked", "delay_sum", "hash"), map(int, row)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "release", "conjoin"))
    parser.add_argument("--memory", default="256MB")
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--row-bytes", type=int, default=2_000)
    parser.add_argument("--cache", default=os.environ.get("CONJOIN_CACHE", os.path.expanduser("~/.cache/conjoin")))
    parser.add_argument("--csv")
    args = parser.parse_args()
    limit = int(args.memory.removesuffix("MB")) * 1_000_000
    per_day = int(args.times * limit / args.row_bytes)
    folder = os.path.join(args.cache, f"spill-{per_day}-{args.row_bytes}")
    out = os.path.join(args.cache, "spill-out")
    generate(folder, per_day, args.row_bytes)
    with open(os.path.join(folder, "expected.json")) as file:
        expected = json.load(file)
    walls, cpu, peaks, hashes, curves = {}, {}, {}, set(), {}
    for pair in range(args.pairs):
        kinds = [args.memory, UNLIMITED]
        for memory in kinds if pair % 2 == 0 else reversed(kinds):
            before = round(os.getloadavg()[0], 1)
            done = run(args, folder, out, memory)
            found = result(out)
            hashes.add(found.pop("hash"))
            right = found == {key: expected[key] for key in ("samples", "clicked", "delay_sum")} | {"distinct": expected["samples"]}
            right &= done["report"]["violations"] == 0
            peak = max(line[1] for line in done["lines"]) / 1024
            walls.setdefault(memory, []).append(done["wall_s"])
            cpu.setdefault(memory, []).append(done["cpu_s"])
            peaks.setdefault(memory, []).append(peak)
            curves.setdefault(memory, done["lines"])
            print(
                f"pair {pair + 1}, {memory:>6}: {done['wall_s']:.1f} s, {done['cpu_s']:.1f} s CPU, {expected['events'] / done['wall_s'] / 1e3:.0f} k events/s, "
                f"{done['report']['commits']} commits, {peak:.0f} MiB RSS at most, load before {before}, {'exact' if right else 'WRONG'}",
                file=sys.stderr,
            )
            if not right:
                sys.exit(f"found {found}, expected {expected}")
    shutil.rmtree(out, ignore_errors=True)
    if args.csv:
        with open(args.csv, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["state_memory", "seconds", "rss_kib", "pending", "index", "labels", "payload", "spilled"])
            for memory, lines in curves.items():
                writer.writerows([memory] + line for line in lines)
    ratios = [kept / spilled for spilled, kept in zip(walls[args.memory], walls[UNLIMITED])]
    most = max(line[2] for line in curves[args.memory])
    print(json.dumps({
        "memory": args.memory,
        "pending_max": most,
        "pending_bytes_max": most * args.row_bytes,
        "throughput_spilling_over_in_memory": [round(ratio, 3) for ratio in ratios],
        "throughput_ratio_median": round(statistics.median(ratios), 3),
        "cpu_spilling_over_in_memory": round(statistics.median(cpu[args.memory]) / statistics.median(cpu[UNLIMITED]), 3),
        "rss_mib_max_spilling": round(max(peaks[args.memory])),
        "rss_mib_max_in_memory": round(max(peaks[UNLIMITED])),
        "limit_mib": round(limit / MIB),
        "same_rows": len(hashes) == 1,
    }))
    sys.exit(0 if len(hashes) == 1 else 1)


if __name__ == "__main__":
    main()
