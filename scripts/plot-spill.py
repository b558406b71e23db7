#!/usr/bin/env python3
"""Draws the memory of a run that spills beside one that does not: plot-spill.py spill.csv docs/img/spill-rss.svg

    $(scripts/venv.sh bench numpy duckdb) benches/e2e/spill.py --csv spill.csv
    $(scripts/venv.sh plot matplotlib) scripts/plot-spill.py spill.csv docs/img/spill-rss.svg
"""
import csv
import os
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

MIB = 1 << 20
POINTS = 400


def thinned(rows):
    """Of every stretch the largest values: a peak is not lost."""
    step = max(1, len(rows) // POINTS)
    stretches = [rows[start : start + step] for start in range(0, len(rows), step)]
    return [{key: max(row[key] for row in stretch) for key in stretch[0]} for stretch in stretches]


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    curves = {}
    with open(sys.argv[1]) as file:
        for row in csv.DictReader(file):
            curves.setdefault(row.pop("state_memory"), []).append({key: float(value) for key, value in row.items()})
    if len(curves) != 2:
        sys.exit(f"{sys.argv[1]} has {len(curves)} runs, not one that spills and one that does not")
    (little, spilling), (_, in_memory) = [(memory, thinned(rows)) for memory, rows in curves.items()]
    limit = int(little.removesuffix("MB")) * 1_000_000 / MIB
    if max(row["spilled"] for row in spilling) == 0:
        sys.exit("the first run of the file has spilled nothing")

    plt.rcParams["svg.hashsalt"] = "conjoin"
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharex=True)
    seconds = [row["seconds"] for row in spilling]
    axes[0].plot([row["seconds"] for row in in_memory], [row["rss_kib"] / 1024 for row in in_memory], label="RSS, all in memory")
    axes[0].plot(seconds, [row["rss_kib"] / 1024 for row in spilling], label=f"RSS, state.memory {little}")
    axes[0].plot(seconds, [row["spilled"] / MIB for row in spilling], label="payload on disk alone", linestyle=":")
    axes[1].plot(seconds, [row["rss_kib"] / 1024 for row in spilling], color="C1", label="RSS")
    parts = [[row[part] / MIB for row in spilling] for part in ("index", "labels", "payload")]
    axes[1].stackplot(seconds, parts, labels=["index", "labels", "payload in memory, at the cut"], alpha=0.5)
    axes[1].axhline(limit, color="black", linewidth=0.8, linestyle="--", label=f"state.memory, {limit:.0f} MiB")
    axes[1].set_ylim(0, max(limit, max(row["rss_kib"] for row in spilling) / 1024) * 1.7)
    for axis in axes:
        axis.set_xlabel("seconds")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=7, loc="center right")
    axes[1].legend(fontsize=7, loc="upper left")
    axes[0].set_ylabel("MiB")
    figure.suptitle(f"a window of 24 h: {max(row['pending'] for row in spilling):,.0f} impressions pending at most", fontsize=10)
    figure.tight_layout()
    os.makedirs(os.path.dirname(os.path.abspath(sys.argv[2])), exist_ok=True)
    figure.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()
