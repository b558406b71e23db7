#!/usr/bin/env python3
"""Trains the click model of config/demo.yaml on samples that Conjoin wrote, and exports it to ONNX.

    pip install numpy pyarrow onnx
    python examples/train_ctr.py out/samples --out models/ctr/1/model.onnx

Reads every Parquet file below the given folder, trains a small neural network on the earlier part of the time and
says how well it ranks the later part (AUC), beside what the position on the page alone would give. The model takes one
input [N, 1] per feature, under the feature's name, as floats; what is missing comes as NaN and counts as the feature's
mean. All of the preparation (log, mean, deviation) is inside the graph. The same samples give the same file.

    --synthetic            makes up samples instead of reading them
    --check FILE           also writes inputs and the scores that onnxruntime gives them, for tests
"""

import argparse
import json
import pathlib
import sys

import numpy as np

# Counts and prices are skewed: their logarithm is what the network sees.
FEATURES = [
    # name, log
    ("position", True),
    ("price", True),
    ("user_clicks_1h", True),
    ("user_impressions_1h", True),
    ("item_ctr_1h", False),
    ("item_clicks_1h", True),
    ("item_impressions_1h", True),
]
HIDDEN = 16
OPSET, IR_VERSION = 17, 8  # read by every onnxruntime since 1.13


def read_samples(folder, label, time, names):
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    files = sorted(pathlib.Path(folder).rglob("*.parquet"))
    if not files:
        sys.exit(f"{folder}: no Parquet files; run the pipeline first, or give --synthetic")
    schema = pq.read_schema(files[0])
    if time is None:
        stamps = [field.name for field in schema if pa.types.is_timestamp(field.type)]
        time = "impression_ts" if "impression_ts" in stamps else next(iter(stamps), None)
    missing = [name for name in [*names, label, time] if name not in schema.names]
    if missing:
        sys.exit(f"{files[0]}: no column {', '.join(map(str, missing))}; there are: {', '.join(schema.names)}")
    weighted = "sample_weight" in schema.names
    columns = list(dict.fromkeys([*names, label, time] + (["sample_weight"] if weighted else [])))
    table = pa.concat_tables([pq.ParquetFile(file).read(columns=columns) for file in files])

    def floats(name):
        return table[name].cast(pa.float64()).to_numpy(zero_copy_only=False).astype(np.float64)

    x = np.stack([floats(name) for name in names], axis=1)
    y = pc.fill_null(table[label].cast(pa.bool_()), False).to_numpy(zero_copy_only=False).astype(np.float64)
    at = table[time].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy(zero_copy_only=False)
    weight = floats("sample_weight") if weighted else np.ones(len(y))
    return x, y, at, weight


def synthetic_samples(rows, seed):
    """Samples whose clicks follow a known rule: position, the item's true rate, the price and the user's mood."""
    rng = np.random.default_rng(seed)
    position = rng.integers(1, 11, rows).astype(float)
    price = np.exp(rng.normal(3, 0.8, rows))
    item_rate = rng.beta(2, 30, rows)
    user_mood = rng.normal(0, 0.7, rows)
    item_impressions = rng.poisson(np.exp(rng.normal(4, 1, rows))).astype(float)
    item_clicks = rng.binomial(item_impressions.astype(int), item_rate).astype(float)
    user_impressions = rng.poisson(20, rows).astype(float)
    user_clicks = rng.binomial(user_impressions.astype(int), 1 / (1 + np.exp(3 - user_mood))).astype(float)
    logit = np.log(item_rate / (1 - item_rate)) + 0.9 - 0.55 * np.log(position) + user_mood - 0.15 * (np.log(price) - 3)
    y = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(float)
    ctr = (item_clicks + 1) / (item_impressions + 20)
    x = np.stack([position, price, user_clicks, user_impressions, ctr, item_clicks, item_impressions], axis=1)
    x[rng.random(rows) < 0.02, 4:] = np.nan
    return x, y, np.arange(rows), np.ones(rows)


def auc(score, y):
    """The chance that a clicked impression scores above one that was not; ties count half."""
    positives = y.sum()
    negatives = len(y) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, place, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return (rank[y > 0].sum() - positives * (positives + 1) / 2) / (positives * negatives)


def log_loss(p, y, weight):
    p = np.clip(p, 1e-7, 1 - 1e-7)
    return -np.average(y * np.log(p) + (1 - y) * np.log(1 - p), weights=weight)


def sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))


class Network:
    """log1p where it helps, NaN to the mean, standardised, one hidden layer, one probability."""

    def __init__(self, logs, x, seed):
        self.logs = np.array(logs)
        z = self.logged(x)
        known = np.isfinite(z)
        count = np.maximum(known.sum(axis=0), 1)
        self.mean = np.where(known, z, 0).sum(axis=0) / count
        deviation = np.sqrt((np.where(known, z - self.mean, 0) ** 2).sum(axis=0) / count)
        self.scale = 1 / np.where(deviation > 1e-9, deviation, 1)
        rng = np.random.default_rng(seed)
        k = x.shape[1]
        self.w1 = rng.normal(0, np.sqrt(2 / k), (k, HIDDEN))
        self.b1 = np.zeros(HIDDEN)
        self.w2 = rng.normal(0, np.sqrt(1 / HIDDEN), (HIDDEN, 1))
        self.b2 = np.zeros(1)

    def logged(self, x):
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.logs, np.log(1 + x), x)

    def prepare(self, x):
        z = self.logged(x)
        return (np.where(np.isfinite(z), z, self.mean) - self.mean) * self.scale

    def forward(self, z):
        hidden = np.maximum(z @ self.w1 + self.b1, 0)
        return hidden, sigmoid(hidden @ self.w2 + self.b2)[:, 0]

    def predict(self, x):
        return self.forward(self.prepare(x))[1]

    def train(self, x, y, weight, epochs, seed, batch=2048, rate=3e-3, decay=1e-5):
        """Adam on the weighted log loss."""
        z = self.prepare(x)
        weight = weight / weight.mean()
        base = np.clip(np.average(y, weights=weight), 1e-4, 1 - 1e-4)
        self.b2[:] = np.log(base / (1 - base))
        weights = [self.w1, self.b1, self.w2, self.b2]
        first = [np.zeros_like(w) for w in weights]
        second = [np.zeros_like(w) for w in weights]
        rng = np.random.default_rng(seed + 1)
        step = 0
        for _ in range(epochs):
            order = rng.permutation(len(y))
            for start in range(0, len(y), batch):
                rows = order[start : start + batch]
                hidden, p = self.forward(z[rows])
                slope = ((p - y[rows]) * weight[rows] / len(rows))[:, None]
                back = (slope @ self.w2.T) * (hidden > 0)
                slopes = [z[rows].T @ back, back.sum(axis=0), hidden.T @ slope, slope.sum(axis=0)]
                step += 1
                for w, g, m, v in zip(weights, slopes, first, second):
                    g = g + decay * w
                    m += 0.1 * (g - m)
                    v += 0.001 * (g * g - v)
                    w -= rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    def to_onnx(self, names):
        from onnx import TensorProto, checker, helper, numpy_helper

        constants, nodes, columns = {}, [], []
        constants["one"] = np.array(1, np.float32)
        for name, log in zip(names, self.logs):
            if log:
                nodes.append(helper.make_node("Add", [name, "one"], [f"{name}_plus_1"]))
                nodes.append(helper.make_node("Log", [f"{name}_plus_1"], [f"{name}_log"]))
            columns.append(f"{name}_log" if log else name)
        constants["mean"] = self.mean[None, :].astype(np.float32)
        constants["scale"] = self.scale[None, :].astype(np.float32)
        for name, value in [("w1", self.w1), ("b1", self.b1), ("w2", self.w2), ("b2", self.b2)]:
            constants[name] = value.astype(np.float32)
        steps = [
            ("Concat", columns, "x", {"axis": 1}),
            ("IsNaN", ["x"], "is_missing", {}),
            ("Where", ["is_missing", "mean", "x"], "filled", {}),
            ("Sub", ["filled", "mean"], "centred", {}),
            ("Mul", ["centred", "scale"], "standardised", {}),
            ("Gemm", ["standardised", "w1", "b1"], "hidden", {}),
            ("Relu", ["hidden"], "active", {}),
            ("Gemm", ["active", "w2", "b2"], "logit", {}),
            ("Sigmoid", ["logit"], "p", {}),
        ]
        nodes += [helper.make_node(op, ins, [out], **attributes) for op, ins, out, attributes in steps]
        graph = helper.make_graph(
            nodes,
            "ctr",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1]) for name in names],
            [helper.make_tensor_value_info("p", TensorProto.FLOAT, ["N", 1])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="train_ctr"
        )
        checker.check_model(model, full_check=True)
        return model


def write_check(path, model, names, x):
    """Some inputs and their scores by onnxruntime itself, null where a value is missing."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {name: x[:, [column]].astype(np.float32) for column, name in enumerate(names)}
    scores = session.run(["p"], feed)[0][:, 0]
    inputs = {name: [None if np.isnan(v) else float(np.float32(v)) for v in x[:, c]] for c, name in enumerate(names)}
    path.write_text(json.dumps({"inputs": inputs, "scores": [float(score) for score in scores]}, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", nargs="?", help="folder of Parquet samples")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("models/ctr/1/model.onnx"))
    parser.add_argument("--features", default=",".join(name for name, _ in FEATURES), help="default: %(default)s")
    parser.add_argument("--label", default="clicked")
    parser.add_argument("--time", help="default: impression_ts, else the first timestamp")
    parser.add_argument("--holdout", type=float, default=0.25, help="share of the time, at its end, that is not trained on")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--synthetic", action="store_true")
    parser.add_argument("--check", type=pathlib.Path)
    options = parser.parse_args()
    if (options.samples is None) != options.synthetic:
        parser.error("give the folder of the samples, or --synthetic")

    names = options.features.split(",")
    if options.synthetic:
        names = [name for name, _ in FEATURES]
        x, y, at, weight = synthetic_samples(60_000, options.seed)
    else:
        x, y, at, weight = read_samples(options.samples, options.label, options.time, names)
    known_logs = dict(FEATURES)
    logs = [known_logs.get(name, False) for name in names]

    # By time, as the model will be used: on what comes after.
    cut = np.quantile(at, 1 - options.holdout)
    train, test = at < cut, at >= cut
    if train.sum() < 100 or y[train].sum() == 0:
        sys.exit(f"{len(y)} samples with {int(y.sum())} clicks are too few to train on")
    network = Network(logs, x[train], options.seed)
    network.train(x[train], y[train], weight[train], options.epochs, options.seed)

    p = network.predict(x[test])
    base = np.average(y[train], weights=weight[train])
    print(f"trained on {train.sum()} impressions with {int(y[train].sum())} clicks, held out {test.sum()} later ones")
    print(f"AUC {auc(p, y[test]):.4f}", end="")
    if "position" in names:
        print(f", of the position alone {auc(-x[test][:, names.index('position')], y[test]):.4f}", end="")
    constant = log_loss(np.full(test.sum(), base), y[test], weight[test])
    print(f"; log loss {log_loss(p, y[test], weight[test]):.4f}, of the mean click rate {constant:.4f}")

    model = network.to_onnx(names)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(model.SerializeToString(deterministic=True))
    print(f"{options.out}: {options.out.stat().st_size} bytes")
    if options.check:
        rows = x[test][:40].copy()
        rows[0] = 0
        rows[1] = np.nan
        options.check.parent.mkdir(parents=True, exist_ok=True)
        write_check(options.check, model, names, rows)
        print(f"{options.check}: {len(rows)} rows")


if __name__ == "__main__":
    main()
