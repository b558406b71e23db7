#!/usr/bin/env python3
"""Runs the benchmark: makes the data (once), runs config/bench.yaml, checks the result exactly, prints one line of JSON.

    run.py [--binary target/release/conjoin] [--rate 20000] [--runs 3] [--cache FOLDER] [--kill]

`events_per_s`, `wall_s` and `cpu_s` are of the run with the median wall time; `peak_rss_mib` is the largest of all runs;
`correct` says that every run gave the expected result. Time is that of the whole process, from start to exit.
With --kill each run is ended twice by kill -9, after eight commits and again after eight more, and started again: the figures are then
the sums over the three processes, and `restored` tells how many pending rows each restart brought back and how fast.
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

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
COMMITS_MIN = 10
KILL_AFTER_COMMITS = 8


def data(cache, rate, impressions=2_000_000):
    """The workload's folder; made on first use, never half."""
    longer = "" if impressions == 2_000_000 else f"-n{impressions}"
    folder = os.path.join(cache, f"bench-data-v1-rate{rate}{longer}")
    if not os.path.exists(os.path.join(folder, "expected.json")):
        print(f"making {impressions} impressions at {rate} per second in {folder}", file=sys.stderr)
        gen = [sys.executable, os.path.join(HERE, "gen.py"), "--rate", str(rate), "--n", str(impressions), "--out", folder]
        subprocess.run(gen, check=True)
    return folder


def manifests(out):
    return len(glob.glob(os.path.join(out, "state", "manifests", "*.json")))


def command_of(binary, settings=()):
    changed = [word for setting in settings for word in ("--set", setting)]
    return [binary, "run", os.path.join(ROOT, "config", "bench.yaml"), "--json", *changed]


def once(binary, folder, out, kill_at_commit=None, settings=()):
    """One process; killed when so many further manifests are there, unless it ends before."""
    command = command_of(binary, settings)
    before, start = manifests(out), time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, "DATA_DIR": folder, "OUT_DIR": out}, stdout=subprocess.PIPE)
    while kill_at_commit and process.poll() is None:
        if manifests(out) - before >= kill_at_commit:
            process.kill()
            break
        time.sleep(0.005)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0) if process.returncode is None else (0, process.returncode, None)
    code = os.waitstatus_to_exitcode(status) if usage else status
    wall = time.monotonic() - start
    if code not in (0, -9):
        sys.exit(f"{' '.join(command)} failed with status {code}")
    report = json.loads(output.decode().strip().splitlines()[-1]) if code == 0 else None
    cpu, rss = (usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024) if usage else (0.0, 0.0)
    return {"wall_s": wall, "cpu_s": cpu, "rss_mib": rss, "report": report, "restored": []}


def measure(binary, folder, out, kill):
    shutil.rmtree(out, ignore_errors=True)
    total = once(binary, folder, out, KILL_AFTER_COMMITS if kill else None)
    while total["report"] is None:
        more = once(binary, folder, out, None if total["restored"] else KILL_AFTER_COMMITS)
        restored = more["report"] and {key: more["report"][key] for key in ("restored_rows", "restored_ms")}
        total = {
            "wall_s": total["wall_s"] + more["wall_s"],
            "cpu_s": total["cpu_s"] + more["cpu_s"],
            "rss_mib": max(total["rss_mib"], more["rss_mib"]),
            "report": more["report"],
            "restored": total["restored"] + [restored],
        }
    return total


def check(folder, out, report):
    """What a reader of the published files sees, against what the generator knows."""
    import duckdb

    with open(os.path.join(folder, "expected.json")) as file:
        expected = json.load(file)
    files = os.path.join(out, "samples", "**", "*.parquet")
    row = duckdb.connect().execute(
        f"""SELECT count(*), count(DISTINCT request_id), count(click_ts), count(label_ts),
                   sum(epoch_ms(click_ts)), sum(epoch_ms(label_ts)), sum(CAST(round(label_value * 100) AS BIGINT)),
                   count(*) FILTER (click_ts NOT BETWEEN ts AND ts + INTERVAL 600 SECOND)
            FROM read_parquet('{files}')"""
    ).fetchone()
    modulus = 1 << 53
    got = {
        "samples": row[0],
        "distinct": row[1],
        "clicked": row[2],
        "converted": row[3],
        "sum_first_click_ts_mod_2_53": int(row[4]) % modulus,
        "sum_label_ts_mod_2_53": int(row[5]) % modulus,
        "sum_label_value_cents": int(row[6]),
        "outside": row[7],
        "duplicate_clicks": report["counts"]["samples"][0]["labels"][0]["duplicate"],
        "violations": report["violations"],
    }
    want = {key: expected[key] for key in got if key in expected} | {"distinct": expected["samples"], "outside": 0, "violations": 0}
    wrong = {key: (got[key], want[key]) for key in got if got[key] != want[key]}
    if wrong:
        print("wrong result (got, expected):", wrong, file=sys.stderr)
    return not wrong, expected["total_events"], len(glob.glob(files, recursive=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", default=os.path.join(ROOT, "target", "release", "conjoin"))
    parser.add_argument("--rate", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--kill", action="store_true", help="end each run twice by kill -9 and go on")
    parser.add_argument("--cache", default=os.environ.get("CONJOIN_CACHE", os.path.expanduser("~/.cache/conjoin")))
    args = parser.parse_args()
    folder, out = data(args.cache, args.rate), os.path.join(args.cache, "bench-out")
    runs, correct = [], True
    for number in range(args.runs):
        run = measure(args.binary, folder, out, args.kill)
        right, events, files = check(folder, out, run["report"])
        commits = run["report"]["commits"]
        correct &= right and (commits >= COMMITS_MIN or args.kill)
        runs.append(run | {"commits": commits})
        print(
            f"run {number + 1}: {run['wall_s']:.2f} s wall, {run['cpu_s']:.1f} s CPU, {run['rss_mib']:.0f} MiB, "
            f"{commits} commits, {files} files, {'exact' if right else 'WRONG'}",
            file=sys.stderr,
        )
    shutil.rmtree(out, ignore_errors=True)
    wall = statistics.median(run["wall_s"] for run in runs)
    median = min(runs, key=lambda run: abs(run["wall_s"] - wall))
    result = {
        "rate": args.rate,
        "events_per_s": round(events / median["wall_s"]),
        "wall_s": round(median["wall_s"], 2),
        "cpu_s": round(median["cpu_s"], 2),
        "peak_rss_mib": round(max(run["rss_mib"] for run in runs)),
        "commits": median["commits"],
        "runs": len(runs),
        "correct": correct,
    } | ({"restored": median["restored"]} if args.kill else {})
    print(json.dumps(result))
    sys.exit(0 if correct else 1)


if __name__ == "__main__":
    main()
