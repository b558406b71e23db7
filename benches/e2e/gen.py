#!/usr/bin/env python3
"""The benchmark's workload: three NDJSON files of one ad log, and the exact result of joining them.

    gen.py --out FOLDER [--n 2000000] [--rate 20000] [--seed 42] [--jitter-ms 5000]

Time:  impression i happens at T0 + i * 1000 / rate ms.
       10 % are clicked after Exp(20 s), at most 9 min; 1 % of the clicks come a second time, byte for byte.
       20 % of the clicked convert after Exp(60 s) from the click, at most 15 min.
       Every record arrives U(0, jitter) after it happened; each file is sorted by arrival.
The result counts a first click within 10 min of the impression and a conversion within 20 min of it.
The same arguments give the same bytes on every machine (numpy's PCG64 stream).
"""
import argparse
import json
import os

import numpy as np

T0_MS = 1_700_000_000_000
CLICK_WINDOW_MS, LABEL_WINDOW_MS = 600_000, 1_200_000
DEVICES = ["ios", "android", "web", "tv", "tablet"]
CHUNK_ROWS = 50_000
IMPRESSION = (
    '{"request_id":"%016x","user_id":"u%07d","item_id":"i%06d","ts":%d,"position":%d,"device":"%s","price":%.2f,'
    + ",".join('"f%d":%%.6f' % k for k in range(8)) + "}\n"
)
CLICK = '{"request_id":"%016x","user_id":"u%07d","item_id":"i%06d","ts":%d}\n'
LABEL = '{"request_id":"%016x","user_id":"u%07d","ts":%d,"value":%.2f}\n'


def zipf(rng, size, count):
    """Popularity ~ 1/rank, with the ranks dealt to ids at random."""
    cumulative = np.cumsum(1.0 / np.arange(1, size + 1) ** 1.0)
    cumulative /= cumulative[-1]
    rank = np.searchsorted(cumulative, rng.random(count))
    ids = rng.permutation(size)
    return ids[np.minimum(rank, size - 1)]


def events(n, rate, seed, jitter_ms):
    """All columns of the three streams; the order of the draws is part of the format."""
    rng = np.random.default_rng(seed)
    number = np.arange(n, dtype=np.uint64)
    impressions = {
        # An odd multiplier modulo 2^64 is a bijection: ids are unique and look random.
        "request": (number + np.uint64(0x1234567)) * np.uint64(0x9E3779B97F4A7C15),
        "user": zipf(rng, 200_000, n),
        "item": zipf(rng, 50_000, n),
        "ts": T0_MS + (np.arange(n, dtype=np.int64) * 1000) // rate,
        "position": rng.integers(0, 50, n),
        "device": rng.integers(0, 5, n),
        "price": np.round(rng.gamma(2.0, 30.0, n), 2),
        "f": np.round(rng.standard_normal((n, 8)), 6),
    }
    ts = impressions["ts"]
    impressions["arrival"] = ts + rng.integers(0, jitter_ms + 1, n)

    clicked = np.nonzero(rng.random(n) < 0.10)[0]
    click_delay = np.minimum(rng.exponential(20_000, clicked.size).astype(np.int64), 540_000)
    click_ts = ts[clicked] + click_delay
    twice = np.nonzero(rng.random(clicked.size) < 0.01)[0]
    clicks = {"of": np.concatenate([clicked, clicked[twice]]), "ts": np.concatenate([click_ts, click_ts[twice]])}
    clicks["arrival"] = clicks["ts"] + rng.integers(0, jitter_ms + 1, clicks["ts"].size)

    converting = np.nonzero(rng.random(clicked.size) < 0.20)[0]
    labels = {"of": clicked[converting]}
    delay = np.minimum(rng.exponential(60_000, converting.size).astype(np.int64), 900_000)
    labels["ts"] = click_ts[converting] + delay
    labels["value"] = np.round(rng.gamma(2.0, 20.0, converting.size), 2)
    labels["arrival"] = labels["ts"] + rng.integers(0, jitter_ms + 1, converting.size)
    in_window = {
        "click": click_delay <= CLICK_WINDOW_MS,
        "label": labels["ts"] - ts[labels["of"]] <= LABEL_WINDOW_MS,
        "click_ts": click_ts,
        "twice": int(twice.size),
    }
    return impressions, clicks, labels, in_window


def write(path, order, line):
    with open(path + ".part", "w", buffering=1 << 22) as file:
        for start in range(0, order.size, CHUNK_ROWS):
            file.write("".join(line(order[start : start + CHUNK_ROWS])))
    os.replace(path + ".part", path)


def lists(rows, *columns):
    return zip(*(column[rows].tolist() for column in columns))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--n", type=int, default=2_000_000)
    parser.add_argument("--rate", type=int, default=20_000, help="impressions per second of event time")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--jitter-ms", type=int, default=5_000)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    imp, clk, lab, in_window = events(args.n, args.rate, args.seed, args.jitter_ms)

    def impression_lines(rows):
        head = lists(rows, imp["request"], imp["user"], imp["item"], imp["ts"], imp["position"], imp["device"], imp["price"])
        return [
            IMPRESSION % (request, user, item, ts, position, DEVICES[device], price, *features)
            for (request, user, item, ts, position, device, price), features in zip(head, imp["f"][rows].tolist())
        ]

    def click_lines(rows):
        of = clk["of"][rows]
        return [CLICK % values for values in zip(*(imp[c][of].tolist() for c in ("request", "user", "item")), clk["ts"][rows].tolist())]

    def label_lines(rows):
        of = lab["of"][rows]
        return [
            LABEL % values
            for values in zip(imp["request"][of].tolist(), imp["user"][of].tolist(), lab["ts"][rows].tolist(), lab["value"][rows].tolist())
        ]

    for name, stream, lines in (("impressions", imp, impression_lines), ("clicks", clk, click_lines), ("labels", lab, label_lines)):
        write(os.path.join(args.out, name + ".ndjson"), np.argsort(stream["arrival"], kind="stable"), lines)

    def total(values):
        return int(values.astype(object).sum()) % (1 << 53) if values.size else 0

    expected = {
        "total_events": int(args.n + clk["ts"].size + lab["ts"].size),
        "impressions": args.n,
        "clicks": int(clk["ts"].size),
        "duplicate_clicks": in_window["twice"],
        "labels": int(lab["ts"].size),
        "samples": args.n,
        "clicked": int(in_window["click"].sum()),
        "converted": int(in_window["label"].sum()),
        "sum_first_click_ts_mod_2_53": total(in_window["click_ts"][in_window["click"]]),
        "sum_label_ts_mod_2_53": total(lab["ts"][in_window["label"]]),
        "sum_label_value_cents": int(np.round(lab["value"][in_window["label"]] * 100).astype(np.int64).sum()),
    }
    with open(os.path.join(args.out, "expected.json"), "w") as file:
        json.dump(expected, file, indent=1)


if __name__ == "__main__":
    main()
