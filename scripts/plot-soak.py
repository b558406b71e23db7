#!/usr/bin/env python3
"""Draws the memory of a soak: plot-soak.py soak.csv docs/img/soak-rss.svg

    make soak SECONDS=3600 RSS=soak.csv
    $(scripts/venv.sh plot matplotlib) scripts/plot-soak.py soak.csv docs/img/soak-rss.svg

Says on standard output what a reader would look for: the median of the first tenth after the start, of the last one, and
the largest value.
"""
import csv
import os
import statistics
import sys

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__.strip())
    with open(sys.argv[1]) as file:
        rows = [{key: int(value) for key, value in row.items()} for row in csv.DictReader(file)]
    if len(rows) < 20:
        sys.exit(f"{sys.argv[1]} has {len(rows)} lines: let the soak run for two minutes at least")
    minutes = [row["seconds"] / 60 for row in rows]
    rss = [row["rss_kib"] / 1024 for row in rows]
    tenth = len(rows) // 10
    early, late = statistics.median(rss[tenth : 2 * tenth]), statistics.median(rss[-tenth:])

    plt.rcParams["svg.hashsalt"] = "conjoin"
    figure, axis = plt.subplots(figsize=(8, 3.2))
    axis.plot(minutes, rss, linewidth=1.2)
    axis.set_ylim(0, max(rss) * 1.25)
    axis.set_xlim(0, max(minutes))
    axis.set_xlabel("minutes")
    axis.set_ylabel("RSS, MiB")
    axis.set_title(f"soak: {rows[-1]['storms']:,} storms in {minutes[-1]:.0f} minutes", fontsize=10)
    axis.grid(alpha=0.3)
    figure.tight_layout()
    os.makedirs(os.path.dirname(os.path.abspath(sys.argv[2])), exist_ok=True)
    figure.savefig(sys.argv[2], metadata={"Date": None})
    print(f"RSS in MiB: {early:.1f} early, {late:.1f} at the end ({(late / early - 1) * 100:+.1f} %), {max(rss):.1f} at most")


if __name__ == "__main__":
    main()
