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
large pages, which the others get too; existing environment variables win). They take turns: one works while the others
wait, so that other load on the machine affects all of them. A turn is two calls, of which the second is timed: threads
that have slept are slow to get back to the cores, and in a training loop they never sleep. The figures are medians with
the interquartile range; ratios come first. Memory is the peak of the process minus what it held after its imports.
Other libraries are in the extra `bench`; one that is not installed is skipped, and a line says so.
"""

import contextlib
import gzip
import json
import os
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import bench_models
import jax
import numpy as np
from bench_models import SIZES, Call
from bench_train_tables import table
from harness import Parser, Row, by_turns, listed, median_iqr, rich_table, save, timed
from rich.console import Console

from relpos import process
from relpos.experiments import provenance

TITLES = {"step": tuple(SIZES), "generation": ("1", "16"), "depth": ("width 64",)}
ASKED_FOR = ("rates", "profile")
_call: Call  # of a contestant's process


def held() -> int:
    """Return the peak memory of this process in bytes; 0 if the system does not tell."""
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    return 1024 * int(found[1]) if found else 0


def begin(part: str, title: str, name: str) -> Row:
    """Become a contestant: make its call, and return what the first call took."""
    global _call
    bench_models.import_for(name)
    before = held()
    makers, _ = bench_models.contest(part, title)
    _call = makers[name]()
    facts = {"first_seconds": timed(_call)}
    _call()
    return facts | {"bytes": held() - before}


def turn() -> float:
    """Time a call of this process's contestant."""
    return timed(_call, warm=True)


def measure(
    part: str, title: str, only: Sequence[str], rounds: int, say: Callable[[str], None]
) -> list[Row]:
    """Let all contestants of a table take turns, each in a process of its own; return a row for each."""
    settings = process.settings()
    # Programs from the cache would hide the compile time.
    settings.pop("JAX_COMPILATION_CACHE_DIR", None)
    os.environ.update(settings)
    makers, tokens = bench_models.contest(part, title)
    facts: dict[str, Row] = {}
    own: dict[str, ProcessPoolExecutor] = {}
    with contextlib.ExitStack() as processes:
        for name in makers:
            if only and not name.startswith(tuple(only)):
                continue
            one = processes.enter_context(ProcessPoolExecutor(1, get_context("spawn")))
            try:
                facts[name], own[name] = one.submit(begin, part, title, name).result(), one
            except ImportError as error:
                say(f"{name} is skipped: {error}")
            except Exception as error:  # its process may have been killed
                raise RuntimeError(f"{name} ended: {error!r}") from error

        def ask(name: str) -> float:
            try:
                return own[name].submit(turn).result()
            except Exception as error:
                raise RuntimeError(f"{name} ended: {error!r}") from error

        times = by_turns(own, ask, rounds, f"{part}, {title}")
    rows = []
    for name, seconds in times.items():
        median, spread = median_iqr(seconds)
        figures = {"tokens_per_second": tokens / median, "seconds": median, "spread": spread}
        rows.append({"name": name} | figures | facts[name])
    return rows


def rates(rounds: int) -> dict[str, float]:
    """Return medians: FLOP/s of a product of 1024 x 1024, and bytes/s read by one thread and by one for each core."""
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
        turn = lambda name: timed(calls[name][1], warm=True)  # noqa: E731
        times = by_turns(calls, turn, rounds, "rates")
    return {name: size / statistics.median(times[name]) for name, (size, _) in calls.items()}


def profile(size: str, name: str) -> list[tuple[str, float]]:
    """Return (operation, milliseconds per step) for the operations of XLA, the longest first.

    Loops contain other operations, so the sum exceeds the step.
    """
    call = bench_models.steps(SIZES[size])[name]()
    call()
    calls = 3
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                call()
        (found,) = Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(found.read_bytes()))["traceEvents"]
    spent: defaultdict[str, float] = defaultdict(float)
    for event in events:
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
            kind = re.sub(r"[.\d]+$", "", event["name"])
            spent[kind] += event["dur"] / 1e3 / calls
    return sorted(spent.items(), key=lambda item: -item[1])[:20]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = Parser(__doc__)
    parser.add_names("--sizes", SIZES)
    parser.add_names("--parts", [*TITLES, *ASKED_FOR], default=TITLES)
    parser.add_argument("--only", type=listed, default=[], help="names, or how they begin")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error("--rounds must be at least 2: quartiles need two")
    console = Console()
    record: dict[str, Any] = {
        "commit": provenance.commit(), "machine": provenance.machine(), "tables": {}
    }  # fmt: skip
    if "rates" in options.parts:
        for name, rate in rates(options.rounds).items():
            console.print(f"{rate / 1e9:9.1f} G{name}")
    if "profile" in options.parts:
        name = (options.only or ["relpos rope"])[0]
        for operation, milliseconds in profile(options.sizes[0], name):
            console.print(f"{milliseconds:9.1f} ms  {operation}")
    for part, titles in (TITLES | {"step": tuple(options.sizes)}).items():
        if part not in options.parts:
            continue
        for title in titles:
            rows = measure(part, title, options.only, options.rounds, console.print)
            if not rows:
                continue
            console.print(rich_table(f"{part}, {title}", table("", rows)))
            record["tables"].setdefault(part, {})[title] = rows
            if options.json:
                save(options.json, record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
