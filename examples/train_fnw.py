#!/usr/bin/env python3
"""Trains on rows that leave early, with and without the weights of FNW, on made-up data whose truth is known.

    train_fnw.py [--conjoin target/release/conjoin] [--impressions 300000]

Conversions come hours after their impressions. The pipeline emits each impression at once, and again when it converts
(`emit: { mode: immediate }`), so every conversion has been a negative first. The trainer goes once through the rows in the order
in which they left, as an online trainer would. Prints, per group of impressions, the true rate and what both models say.
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import pyarrow
import pyarrow.compute
import pyarrow.parquet

START_MS = 1_767_225_600_000
DAYS = 4
GROUPS = 8
RATE = 0.02

PIPELINE = """
version: 1
pipeline: fnw
streams:
  impressions:
    file: { path: FOLDER/impressions.ndjson }
    columns: { id: string, segment: int32, shown_at: timestamp }
    time: shown_at
    id: id
    key: id
    partition_by: id
  orders:
    file: { path: FOLDER/orders.ndjson }
    columns: { order_id: string, impression: string, at: timestamp }
    time: at
    id: order_id
    key: impression
    partition_by: impression
samples:
  cvr:
    from: impressions
    join: { order: { stream: orders, within: 24h, take: any } }
    emit: { mode: immediate }
    write: { parquet: { path: FOLDER/samples } }
state: { path: FOLDER/state }
"""


def make(folder, impressions, random):
    """Writes both streams in the order of their times; returns the true rate of each segment."""
    truth = numpy.linspace(0.02, 0.35, GROUPS)
    shown = numpy.sort(random.integers(0, DAYS * 86_400_000, impressions))
    segment = random.integers(0, GROUPS, impressions)
    converts = random.random(impressions) < truth[segment]
    # Exponential, cut at the window: every conversion comes within it.
    delay = numpy.minimum(random.exponential(4 * 3_600_000, impressions), 86_400_000).astype(int)
    with open(folder / "impressions.ndjson", "w") as file:
        for number in range(impressions):
            row = {"id": f"i{number}", "segment": int(segment[number]), "shown_at": START_MS + int(shown[number])}
            file.write(json.dumps(row) + "\n")
    orders = sorted((START_MS + int(shown[number] + delay[number]), number) for number in numpy.flatnonzero(converts))
    with open(folder / "orders.ndjson", "w") as file:
        for at, number in orders:
            file.write(json.dumps({"order_id": f"o{number}", "impression": f"i{number}", "at": at}) + "\n")
    return truth


def train(segment, label, weigh):
    """One pass of logistic regression with a bias per segment; the predicted rates."""
    bias = numpy.full(GROUPS, -2.0)
    total, counted = numpy.zeros(GROUPS), numpy.zeros(GROUPS)
    for step, (group, converted) in enumerate(zip(segment, label)):
        predicted = 1 / (1 + numpy.exp(-bias[group]))
        bias[group] -= RATE * weigh(predicted, converted) * (predicted - converted)
        # What it says on the last day: a constant rate goes on moving about.
        if step > len(label) * (DAYS - 1) / DAYS:
            total[group] += predicted
            counted[group] += 1
    return total / counted


def fnw(predicted, label):
    return 1 + predicted if label else (1 - predicted) * (1 + predicted)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conjoin", default="target/release/conjoin")
    parser.add_argument("--impressions", type=int, default=300_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth = make(folder, arguments.impressions, numpy.random.default_rng(7))
        (folder / "fnw.yaml").write_text(PIPELINE.replace("FOLDER", name))
        subprocess.run([arguments.conjoin, "run", folder / "fnw.yaml"], check=True, stdout=sys.stderr)
        rows = pyarrow.parquet.read_table(folder / "samples", columns=["segment", "order", "emit_ts"]).sort_by("emit_ts")
    # Behind the last impression there are conversions alone, which no trainer would see that follows live traffic.
    end = pyarrow.scalar(START_MS + DAYS * 86_400_000, pyarrow.int64()).cast(rows.schema.field("emit_ts").type)
    rows = rows.filter(pyarrow.compute.less(rows["emit_ts"], end))
    segment, label = rows["segment"].to_numpy(), rows["order"].to_numpy(zero_copy_only=False)
    plain, weighted = train(segment, label, lambda predicted, converted: 1.0), train(segment, label, fnw)
    print(f"{len(rows)} rows of {arguments.impressions} impressions; rates on the last day\n")
    print("segment    truth    as it comes    with FNW weights")
    for group in range(GROUPS):
        print(f"{group:>7}   {truth[group]:.4f}         {plain[group]:.4f}              {weighted[group]:.4f}")
    off = lambda rates: float(numpy.mean(numpy.abs(rates / truth - 1)))
    print(f"\nmean relative error: {off(plain):.3f} as it comes, {off(weighted):.3f} with FNW weights")


if __name__ == "__main__":
    main()
