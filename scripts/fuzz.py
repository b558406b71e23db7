#!/usr/bin/env python3
"""Runs the fuzz targets of fuzz/, one after another, and ends with one line of JSON: fuzz.py SECONDS [--keep] [TARGET…]

Each target starts from fuzz/corpus/TARGET and the seeds that it writes itself, and goes on from what earlier runs found,
which is kept in the target folder. With --keep the smallest inputs that reach everything are put into fuzz/corpus.
cargo-fuzz is installed into the cache folder the first time; a stable toolchain is enough.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSION = "0.13.2"
# What a corpus in the repository may weigh, per target.
KEEP_BYTES = 100_000
# An input that takes so long, or so much memory, is a finding.
TIMEOUT_SECONDS = 60
RSS_LIMIT_MB = 3_000


def say(text):
    print(f"fuzz: {text}", file=sys.stderr, flush=True)


def cargo_fuzz():
    """The path of cargo-fuzz, which is installed if it is not there."""
    cache = subprocess.run(["bash", "-c", '. "$0" && echo "$cache"', ROOT / "scripts/cache.sh"], check=True, stdout=subprocess.PIPE, text=True)
    folder = Path(cache.stdout.strip()) / f"cargo-fuzz-{VERSION}"
    program = folder / "bin/cargo-fuzz"
    if not program.exists():
        say(f"installing cargo-fuzz {VERSION} (once)")
        command = ["cargo", "install", "--quiet", "--locked", "--root", folder, "--version", VERSION, "cargo-fuzz"]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return program


class Fuzz:
    def __init__(self, sanitizer):
        self.program = cargo_fuzz()
        self.sanitizer = sanitizer
        self.target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "fuzz/target")).resolve() / "fuzz"
        # Sanitizers are not for stable compilers, unless they are told that they may.
        self.environment = dict(os.environ, RUSTC_BOOTSTRAP="1", CARGO_TARGET_DIR=str(self.target))

    def call(self, *arguments, **options):
        command = [self.program, "fuzz", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self.environment, stdout=sys.stderr, **options)

    def build(self):
        for sanitizer in self.sanitizer.split(","):
            self.sanitizer = sanitizer
            say(f"building with sanitizer {sanitizer}")
            if self.call("build", "--sanitizer", sanitizer).returncode == 0:
                return
        sys.exit("fuzz: the targets cannot be built")

    def work(self, name):
        """What earlier runs have found."""
        folder = self.target / "corpus" / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self, name, folders, flags):
        """Runs a target; (exit code, what it said)."""
        with tempfile.TemporaryDirectory() as seeds:
            self.environment["CONJOIN_FUZZ_SEEDS"] = seeds
            folders = [*folders, seeds, ROOT / "fuzz/corpus" / name]
            limits = [f"-timeout={TIMEOUT_SECONDS}", f"-rss_limit_mb={RSS_LIMIT_MB}"]
            # Some inputs of the other targets' kinds are whole manifests and state blocks.
            arguments = ["run", "--sanitizer", self.sanitizer, name, *folders, "--", "-max_len=16384", *limits, *flags]
            dictionary = ROOT / "fuzz/dictionaries" / f"{name}.dict"
            if dictionary.exists():
                arguments.append(f"-dict={dictionary}")
            done = self.call(*arguments, stderr=subprocess.PIPE, text=True, errors="replace")
        return done.returncode, done.stderr

    def fuzz(self, name, seconds):
        """Fuzzes a target for so long; what came of it."""
        say(f"{name} for {seconds} s")
        code, said = self.run(name, [self.work(name)], [f"-max_total_time={seconds}", "-print_final_stats=1"])
        number = lambda pattern: max((int(found) for found in re.findall(pattern, said)), default=0)
        result = {
            "executions": number(r"stat::number_of_executed_units: (\d+)"),
            "coverage": number(r"cov: (\d+)"),
            "crashes": int(code != 0),
        }
        if code != 0:
            print(said[-6_000:], file=sys.stderr)
            result["input"] = next(iter(re.findall(r"Test unit written to (\S+)", said)), None)
        say(f"{name}: {json.dumps(result)}")
        return result

    def keep(self, name):
        """Puts a small corpus into the repository; what is named found-… stays."""
        corpus = ROOT / "fuzz/corpus" / name
        with tempfile.TemporaryDirectory() as merged:
            code, said = self.run(name, [merged, self.work(name)], ["-merge=1"])
            if code != 0:
                sys.exit(f"fuzz: {name} cannot be merged:\n{said[-3_000:]}")
            for path in corpus.iterdir():
                if not path.name.startswith("found-"):
                    path.unlink()
            left = KEEP_BYTES
            for path in sorted(Path(merged).iterdir(), key=lambda path: (path.stat().st_size, path.name)):
                left -= path.stat().st_size
                if left < 0:
                    break
                shutil.copyfile(path, corpus / path.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seconds", type=int)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    fuzz = Fuzz(os.environ.get("FUZZ_SANITIZER", "address,none"))
    targets = arguments.targets or sorted(path.name for path in (ROOT / "fuzz/corpus").iterdir())
    fuzz.build()
    results = {}
    for name in targets:
        if arguments.seconds > 0:
            results[name] = fuzz.fuzz(name, arguments.seconds)
        if arguments.keep:
            fuzz.keep(name)
    total = lambda what: sum(result[what] for result in results.values())
    summary = {
        "seconds": arguments.seconds,
        "sanitizer": fuzz.sanitizer,
        "targets": results,
        "executions": total("executions"),
        "crashes": total("crashes"),
    }
    print(json.dumps(summary))
    sys.exit(1 if total("crashes") else 0)


if __name__ == "__main__":
    main()
