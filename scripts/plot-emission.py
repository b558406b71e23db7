#!/usr/bin/env python3
"""Draws when each emission mode tells a trainer of conversions: plot-emission.py CONJOIN docs/img/emission.svg

Runs the pipeline of examples/train_fnw.py in every mode and plots, over the time since an impression that converts, the share of
them that rows have told of by then.
"""
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
import matplotlib
import numpy
import pyarrow.compute as compute
import pyarrow.parquet
from train_fnw import PIPELINE, make

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "conjoin"
from matplotlib import pyplot

IMPRESSIONS = 20_000
WINDOW_HOURS = 24
MODES = {
    "wait": "{ mode: wait }",
    "immediate": "{ mode: immediate }",
    "elapsed, 1h to 6h": "{ mode: elapsed, wait_from: 1h, wait_to: 6h }",
    "defer, 1h to 6h": "{ mode: defer, wait_from: 1h, wait_to: 6h }",
}


def told_after(conjoin, folder, name, mode):
    """Hours from each impression that converts to the first row that says so, and rows per impression."""
    text = PIPELINE.replace("{ mode: immediate }", mode).replace("FOLDER/samples", "FOLDER/" + name)
    text = text.replace("FOLDER/state", f"FOLDER/{name}-state").replace("FOLDER", str(folder))
    (folder / "p.yaml").write_text(text)
    subprocess.run([conjoin, "run", folder / "p.yaml"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    rows = pyarrow.parquet.read_table(folder / name)
    positive = rows.filter(rows["order"])
    if "elapsed_ms" not in rows.column_names:
        return numpy.full(len(positive), float(WINDOW_HOURS)), len(rows) / IMPRESSIONS
    first = positive.group_by("event_id").aggregate([("elapsed_ms", "min")])
    return compute.divide(first["elapsed_ms_min"], 3_600_000.0).to_numpy(), len(rows) / IMPRESSIONS


def main():
    conjoin, target = sys.argv[1:]
    figure, axis = pyplot.subplots(figsize=(7, 3.6))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, IMPRESSIONS, numpy.random.default_rng(7))
        for title, mode in MODES.items():
            hours, rows = told_after(conjoin, folder, re.sub(r"\W+", "", title), mode)
            at = numpy.linspace(0, WINDOW_HOURS + 2, 400)
            axis.step(at, [(hours <= hour).mean() for hour in at], where="post", linestyle="--" if title.startswith("defer") else "-", label=f"{title}: {rows:.2f} rows an impression")
    axis.set(xlabel="hours since the impression", ylabel="conversions told", xlim=(0, WINDOW_HOURS + 2), ylim=(0, 1.02))
    axis.legend(frameon=False, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, metadata={"Date": None})


if __name__ == "__main__":
    main()
