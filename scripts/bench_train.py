"""Measure what users wait for, a training step and a generation, here and in other libraries.

    python scripts/bench_train.py [--sizes '4 x 256,8 x 512'] [--only 'relpos rope,x-transformers'] [--rounds 6]
                                  [--parts step,generation,depth,rates,profile] [--json FILE]

Parts:

- step: AdamW, float32, forward, backward and update;
- generation: greedy, batch 1 and 16, prompts of 128 tokens, 256 new ones, the decoder of 4 x 256;
- depth: the first step of small models of 2 to 64 layers, which is mostly compilation;
- rates (only if named): the machine's peak rates of large matrix products and of reading memory;
- profile (only if named): where a step spends its time, by XLA operation; of the first name in --only.

Each contestant is a process of its own, set up as the commands set up theirs (`relpos.process`: cores as devices, and
large pages, which the others get too; settings of the environment win). They take turns: one works while the others
wait, so that other load on the machine affects all of them. A turn is two calls, of which the second is timed: threads
that have slept are slow to get back to the cores, and in a training loop they never sleep. The figures are medians
with the interquartile range; ratios come first. Memory is the peak of the process minus what it held after its imports.
Other libraries are in the extra `bench`; one that is not installed is skipped, and a line says so.
"""

import argparse
import gzip
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bench_models
import numpy as np
from bench_models import NEW, SIZES
from rich.console import Console
from rich.progress import track
from rich.table import Table

from relpos import process
from relpos.experiments import provenance
from relpos.files import write_atomically

PARTS = ("step", "generation", "depth")
TITLES = {"generation": ("1", "16"), "depth": ("width 64",)}
ASKED_FOR = ("rates", "profile")


def makers(part: str, title: str) -> dict[str, Callable[[], bench_models.Call]]:
    """Return the contestants of one table."""
    if part == "step":
        return bench_models.steps(SIZES[title])
    if part == "depth":
        return bench_models.depths()
    return bench_models.generations(SIZES["4 x 256"], int(title))


def tokens_of(part: str, title: str) -> int:
    """Return the tokens of one call."""
    if part == "generation":
        return int(title) * NEW
    size = SIZES[title] if part == "step" else next(iter(bench_models.DEPTHS.values()))
    return size.B * size.T


def work(part: str, title: str, name: str) -> None:
    """Be one contestant: time a call for each line on standard input, and write its seconds to standard output."""
    try:
        bench_models.import_for(name)
        before = held()
        call = makers(part, title)[name]()
        began = time.perf_counter()
        call()
        facts = {"first_seconds": time.perf_counter() - began}
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), flush=True)
        return
    call()
    print(json.dumps(facts | {"bytes": held() - before}), flush=True)
    for _ in sys.stdin:
        call()
        began = time.perf_counter()
        call()
        print(time.perf_counter() - began, flush=True)


def held() -> int:
    """Return the peak memory of this process in bytes; 0 if the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


class Contestant:
    """A process that makes one timed call on request."""

    def __init__(self, part: str, title: str, name: str):
        command = [sys.executable, __file__, "--worker", part, title, name]
        self.name, self.seconds = name, list[float]()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 closed with the process
        settings = process.settings()
        # Programs from the cache would hide the compile time.
        settings.pop("JAX_COMPILATION_CACHE_DIR", None)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env=os.environ | settings,
        )  # fmt: skip
        try:
            self.facts: dict[str, Any] = json.loads(self._read())
        except RuntimeError:
            self.close()
            raise

    def _read(self) -> str:
        assert self._process.stdout is not None
        while True:
            line = self._process.stdout.readline()
            if not line:
                self._log.seek(0)
                raise RuntimeError(f"{self.name} ended: {self._log.read()[-2000:]}")
            if line.startswith("{") or re.fullmatch(r"[\d.e+-]+\n", line):
                return line  # other lines are messages of a library

    def turn(self) -> None:
        """Make one timed call."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self.seconds.append(float(self._read()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._log.close()


def measure(
    part: str, title: str, only: Sequence[str], rounds: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Let all contestants of a table take turns; return a row for each."""
    contestants = []
    try:
        for name in makers(part, title):
            if only and not any(name.startswith(wanted) for wanted in only):
                continue
            contestant = Contestant(part, title, name)
            if "missing" in contestant.facts:
                say(f"{name} is skipped: {contestant.facts['missing']}")
                contestant.close()
            else:
                contestants.append(contestant)
        shuffle = random.Random(0).sample
        for _ in track(range(rounds), description=f"{part}, {title}", transient=True):
            # In random order: each turn is affected by the caches and clock rates that the previous one left.
            for contestant in shuffle(contestants, len(contestants)):
                contestant.turn()
    finally:
        for contestant in contestants:
            contestant.close()
    rows = []
    for c in contestants:
        low, median, high = statistics.quantiles(c.seconds, n=4)
        rate = tokens_of(part, title) / median
        rows.append(
            {"name": c.name, "tokens_per_second": rate, "seconds": median, "spread": high - low}
            | c.facts
        )
    return rows


def fastest_peer(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the fastest row of another library, or the first row if there is none."""
    peers = [row for row in rows if not row["name"].startswith("relpos")]
    return max(peers or rows[:1], key=lambda row: row["tokens_per_second"])


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return a table of ratios to the fastest peer, then figures."""
    best = fastest_peer(rows)
    shown = Table(title=title)
    shown.add_column(f"of {best['name']}")
    for column in ("", "tokens/s", "ms", "first call s", "memory MB"):
        shown.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row["name"], f"{row['tokens_per_second'] / best['tokens_per_second']:.2f}x",
            f"{row['tokens_per_second']:,.0f}",
            f"{1e3 * row['seconds']:.0f} ±{1e3 * row['spread']:.0f}",
            f"{row['first_seconds']:.1f}", f"{row['bytes'] / 1e6:.0f}",
        )  # fmt: skip
    return shown


def rates(rounds: int) -> dict[str, float]:
    """Return medians: FLOP/s of a product of 1024 x 1024, and bytes/s read by one thread and by one for each core."""
    import jax  # which processes of other libraries do without

    matrix = jax.random.normal(jax.random.key(0), (1024, 1024))
    product = jax.jit(jax.numpy.matmul)
    many = np.ones(1 << 26)  # 512 MB, beyond any cache
    shares = np.array_split(many, os.cpu_count() or 1)
    with ThreadPoolExecutor(len(shares)) as threads:
        calls: dict[str, tuple[int, Callable[[], Any]]] = {
            "FLOP/s": (2 * 1024**3, lambda: product(matrix, matrix).block_until_ready()),
            "bytes/s, a thread": (many.nbytes, many.sum),
            "bytes/s, all": (many.nbytes, lambda: list(threads.map(np.sum, shares))),
        }
        found: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, (size, call) in calls.items():
                call()
                began = time.perf_counter()
                call()
                found[name].append(size / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in found.items()}


def profile(size: str, name: str) -> list[tuple[str, float]]:
    """Return (operation, milliseconds per step) for the operations of XLA, the longest first.

    Loops contain other operations, so the sum exceeds the step.
    """
    import jax  # which processes of other libraries do without

    call = bench_models.steps(SIZES[size])[name]()
    call()
    calls = 3
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                call()
        (found,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(found.read_bytes()))["traceEvents"]
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
            kind = re.sub(r"[.\d]+$", "", event["name"])
            spent[kind] += event["dur"] / 1e3 / calls
    return [(kind, float(spent[kind])) for kind, _ in spent.most_common(20)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["--worker"]:
        work(*arguments[1:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    listed = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser.add_argument("--sizes", type=listed, default=list(SIZES), help=", ".join(SIZES))
    parser.add_argument(
        "--parts", type=listed, default=list(PARTS), help=", ".join(PARTS + ASKED_FOR)
    )
    parser.add_argument("--only", type=listed, default=[], help="names, or how they begin")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    for given, known in ((options.sizes, SIZES), (options.parts, PARTS + ASKED_FOR)):
        if wrong := [name for name in given if name not in known]:
            parser.error(f"unknown {', '.join(wrong)}; known: {', '.join(known)}")
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: quartiles are taken of them")
    console = Console()
    record: dict[str, Any] = {
        "commit": provenance.commit(),
        "machine": provenance.machine(),
        "tables": {},
    }
    if "rates" in options.parts:
        for name, rate in rates(options.rounds).items():
            console.print(f"{rate / 1e9:9.1f} G{name}")
    if "profile" in options.parts:
        for operation, milliseconds in profile(
            options.sizes[0], (options.only or ["relpos rope"])[0]
        ):
            console.print(f"{milliseconds:9.1f} ms  {operation}")
    titles = TITLES | {"step": options.sizes}
    for part in (part for part in PARTS if part in options.parts):
        for title in titles[part]:
            rows = measure(part, title, options.only, options.rounds, console.print)
            if not rows:
                continue
            console.print(table(f"{part}, {title}", rows))
            record["tables"].setdefault(part, {})[title] = rows
            if options.json:
                write_atomically(options.json, json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
