"""Measure what positions cost: every encoding on every path, against attention without positions and against peers.

    python scripts/bench_attention.py [--encodings none,t5] [--lengths 1024,4096] [--kinds causal,packed]
                                      [--peers none] [--parts lengths,short,decode] [--json FILE] [--picture FILE]

Parts:

- lengths: B=1, 8 heads of 64, float32, causal, one table for each length: forward, forward + backward, compile time,
  bytes of temporaries, and the same for the peers that are installed;
- short: batch 16 at T=128 ... 512, the usual training shape, against the dense path;
- kinds: other shapes and rules at T=2048: bidirectional, cross, windows, packed, grouped queries, scattered positions,
  a chunk of 512 behind 1536, bfloat16, dropout, softcap;
- decode: one step of a layer with a cache of 4096 tokens;
- memory: bytes of temporaries and compile time of forward + backward at T=8192 and 16384, compiled but not run;
- devices (only if named, on a CPU): the heads on two CPU devices against all on one, at T=4096.

The machine's rate of float32 matrix products is measured too, for large ones and for those of a block: causal attention
has 2 of them forward and 5 backward, with T^2 / 2 * H * 2 operations per head.

All contestants of a table take turns, so that other load on the machine affects all of them. The figures are medians
with the interquartile range. Ratios come first, as absolute times mean little on a shared machine.
"""

import argparse
import dataclasses
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bench_peers
import bench_tables
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, PartitionSpec
from rich.console import Console
from rich.progress import track
from rich.table import Table

import relpos
from relpos import encodings
from relpos.attention.per_head import SPLIT
from relpos.experiments import provenance
from relpos.positions import consecutive

PARTS = ("lengths", "decode", "memory", "short", "kinds")
ASKED_FOR = ("devices",)
HEADS, HEAD_DIM = 8, 64


@dataclasses.dataclass(frozen=True)
class Shape:
    """One attention call.

    Attributes:
      B, T, S, N, K, H: the sizes.
      dtype: of queries, keys and values.
      rules: further arguments of `relpos.attention`, as plain values.
      packed: the length of the documents packed into a row; 0: one document.
      scattered: whether positions are not consecutive.
      start: the first position of consecutive queries, with keys from 0; None: that of the keys.
    """

    B: int = 1
    T: int = 4096
    S: int = 4096
    N: int = HEADS
    K: int = HEADS
    H: int = HEAD_DIM
    dtype: str = "float32"
    rules: tuple[tuple[str, Any], ...] = (("causal", True),)
    packed: int = 0
    scattered: bool = False
    start: int | None = None


@dataclasses.dataclass
class Contestant:
    """Something to time: calls that return when the work is done, or None for work that it cannot do."""

    name: str
    forward: Callable[[], Any] | None
    step: Callable[[], Any] | None = None
    compile_seconds: float | None = None
    temporary_bytes: int | None = None


@dataclasses.dataclass(frozen=True)
class Result:
    """The figures of a contestant; seconds are medians, spreads are interquartile ranges."""

    name: str
    forward: float | None
    forward_spread: float | None
    step: float | None
    step_spread: float | None
    compile_seconds: float | None
    temporary_bytes: int | None


def ours(
    name: str,
    shape: Shape,
    implementation: Any = "auto",
    gradients: bool = True,
    devices: int = 1,
) -> Contestant:
    """Return an encoding of this library; its step differentiates queries, keys, values and all parameters.

    With several devices, each has its share of the heads; encodings that read features are not split yet.
    """
    encoding = encodings.create(
        name, num_heads=shape.N, num_kv_heads=shape.K, head_dim=shape.H, features=shape.N * shape.H,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 6)
    dtype = jnp.dtype(shape.dtype)
    q = jax.random.normal(keys[0], (shape.B, shape.T, shape.N, shape.H), dtype)
    k, v = (
        jax.random.normal(key, (shape.B, shape.S, shape.K, shape.H), dtype) for key in keys[1:3]
    )
    weight = jax.random.normal(keys[3], q.shape, dtype)
    x = jax.random.normal(keys[4], (shape.B, max(shape.T, shape.S), shape.N * shape.H), dtype)
    rules: dict[str, Any] = dict(shape.rules)
    if rules.get("dropout_rate"):
        rules["dropout_key"] = keys[5]
    if shape.packed:
        segments = jnp.arange(shape.T) // shape.packed + 1
        rules |= {"q_segments": segments, "k_segments": segments}
    if shape.scattered:
        places = jnp.asarray(np.sort(np.random.default_rng(0).choice(4 * shape.T, shape.T, False)))
        rules |= {"q_positions": places, "k_positions": places}
    if shape.start is not None:
        starts = shape.start, 0
        rules |= dict(zip(("q_positions", "k_positions"), map(consecutive, starts), strict=True))
    in_attention = None if encoding.adds_to_input() else encoding
    # A training step differentiates only what is trained: not ALiBi's slopes.
    parts: Any = nnx.split(in_attention, nnx.Param, ...) if in_attention else (None, (), ())
    graphdef, state, fixed = parts

    # If they were not arguments, they would be constants, which slow compilation down.
    def attend(state, fixed, q, k, v, x):
        made = None if graphdef is None else nnx.merge(graphdef, state, fixed)
        features = {}
        if made is not None and made.needs_tokens:
            found, _ = encodings.tokens(made, x)
            first = lambda n: jax.tree.map(lambda x: x[:, :n], found)  # noqa: E731
            features = {"q_features": first(shape.T), "k_features": first(shape.S)}
        return relpos.attention(
            q, k, v, encoding=made, implementation=implementation, **features, **rules
        )

    if devices > 1:
        attend = _heads_apart(attend, (state, fixed), devices)

    def loss(state, q, k, v, fixed, x, weight):
        return (attend(state, fixed, q, k, v, x) * weight).astype(jnp.float32).sum()

    forward, _, _ = _compiled(attend, (state, fixed, q, k, v, x))
    if not gradients:
        return Contestant(name, forward)
    arguments = (state, q, k, v, fixed, x, weight)
    step, seconds, temporary = _compiled(jax.grad(loss, (0, 1, 2, 3)), arguments)
    return Contestant(name, forward, step, seconds, temporary)


def _heads_apart(attend, parameters, devices: int):
    """Return the same call with its heads on several devices, which need not communicate."""
    mesh = jax.make_mesh((devices,), ("heads",), axis_types=(AxisType.Auto,))
    heads = PartitionSpec(None, None, "heads")
    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    of_parameters = jax.tree.map(
        lambda x: PartitionSpec("heads" if isinstance(x, SPLIT) else None),
        parameters,
        is_leaf=is_variable,
    )
    specs = (*of_parameters, heads, heads, heads, PartitionSpec())
    return jax.shard_map(attend, mesh=mesh, in_specs=specs, out_specs=heads)


def decode_step(name: str, cached: int) -> Contestant:
    """Return a step that decodes one token with a layer whose cache holds `cached` tokens."""
    encoding = encodings.create(
        name, num_heads=HEADS, head_dim=HEAD_DIM, features=HEADS * HEAD_DIM, rngs=nnx.Rngs(0)
    )
    layer = relpos.RelativeAttention(
        HEADS, HEADS * HEAD_DIM, rngs=nnx.Rngs(0),
        encoding=None if encoding.adds_to_input() else encoding,
    )  # fmt: skip
    x = jax.random.normal(jax.random.key(0), (1, cached, HEADS * HEAD_DIM))
    graphdef, state = nnx.split(layer)
    cache = layer.init_cache(1, cached + 1)

    def run(state, x, cache):
        return nnx.merge(graphdef, state).decode(x, cache)

    _, cache = jax.jit(run)(state, x, cache)
    forward, seconds, temporary = _compiled(run, (state, x[:, :1], cache))
    return Contestant(name, forward, None, seconds, temporary)


def matmul_rates() -> dict[str, float]:
    """Return float32 operations per second, the best of ten: of large products, and of a block's two in sequence."""
    large = jnp.ones((2048, 2048))
    blocks, C, H = 64, 512, HEAD_DIM

    def in_blocks(q, k):
        def add_block(i, q):
            return q + 1e-9 * ((q @ k[i].T) @ k[i])

        return jax.lax.fori_loop(0, blocks, add_block, q)

    contestants = {
        "large": (lambda a, b: a @ b, (large, large), 2 * 2048**3),
        "in blocks": (in_blocks, (jnp.ones((C, H)), jnp.ones((blocks, C, H))), 4 * blocks * C * C * H),
    }  # fmt: skip
    found = {}
    for name, (function, arguments, operations) in contestants.items():
        call, _, _ = _compiled(function, arguments)
        call()
        times = []
        for _ in range(10):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        found[name] = operations / min(times)
    return found


def _compiled(function, arguments) -> tuple[Callable[[], Any], float, int | None]:
    """Return a call that waits for its result, its compile time in seconds, and its temporaries in bytes."""
    lowered = jax.jit(function).lower(*arguments)
    began = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - began
    analysis = program.memory_analysis()
    temporary = None if analysis is None else analysis.temp_size_in_bytes
    return lambda: jax.block_until_ready(program(*arguments)), seconds, temporary


def measure(contestants: Sequence[Contestant], seconds: float, title: str) -> list[Result]:
    """Let the contestants take turns for about so many seconds, but at least five rounds.

    A contestant that takes over three times as long as the first one takes part only in every fourth round.
    """
    calls = {
        (i, kind): call
        for i, contestant in enumerate(contestants)
        for kind in ("forward", "step")
        if (call := getattr(contestant, kind)) is not None
    }
    once = {}
    for who, call in calls.items():
        began = time.perf_counter()
        call()
        once[who] = time.perf_counter() - began
    seldom = {who for who, took in once.items() if took > 3 * once.get((0, who[1]), took)}
    a_round = sum(took / 4 if who in seldom else took for who, took in once.items())
    rounds = max(20 if seldom else 5, min(100, int(seconds / a_round)))
    order = random.Random(0)
    times: dict[tuple[int, str], list[float]] = {who: [] for who in calls}
    for number in track(range(rounds), description=title, transient=True):
        turns = [who for who in calls if number % 4 == 0 or who not in seldom]
        order.shuffle(turns)  # so that none always follows the same one
        for who in turns:
            if once[who] < 0.02:
                calls[who]()  # untimed, as the one before has left its data in the caches
            began = time.perf_counter()
            calls[who]()
            times[who].append(time.perf_counter() - began)

    def middle(i, kind):
        if (i, kind) not in times:
            return None, None
        low, median, high = statistics.quantiles(times[i, kind], n=4)
        return median, high - low

    return [
        Result(
            c.name,
            *(*middle(i, "forward"), *middle(i, "step"), c.compile_seconds, c.temporary_bytes),
        )
        for i, c in enumerate(contestants)
    ]


def table(title: str, results: Sequence[Result]) -> Table:
    """Return a table of ratios to the first contestant, then times."""
    first = results[0]
    shown = Table(title=title)
    shown.add_column(f"ratios to {first.name}", no_wrap=True)
    columns = ("fwd", "fwd+bwd", "fwd ms", "fwd+bwd ms", "compile s", "temp MB", "temp")
    for column in columns:
        shown.add_column(column, justify="right", no_wrap=True)

    def ratio(value, base):
        return "" if value is None or not base else f"{value / base:.2f}x"

    def milliseconds(value, spread):
        return "" if value is None else f"{1e3 * value:.1f} ±{1e3 * spread:.1f}"

    for r in results:
        shown.add_row(
            r.name, ratio(r.forward, first.forward), ratio(r.step, first.step),
            milliseconds(r.forward, r.forward_spread), milliseconds(r.step, r.step_spread),
            "" if r.compile_seconds is None else f"{r.compile_seconds:.1f}",
            "" if r.temporary_bytes is None else f"{r.temporary_bytes / 1e6:.1f}",
            ratio(r.temporary_bytes, first.temporary_bytes),
        )  # fmt: skip
    return shown


KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "bidirectional": {"rules": ()},
    "cross": {"rules": (), "S": 1024},
    "window 256": {"rules": (("causal", True), ("window", 256))},
    "packed 256": {"packed": 256},
    "grouped 8:2": {"K": 2},
    "positions": {"scattered": True},
    "chunk": {"T": 512, "start": 1536},
    "bfloat16": {"dtype": "bfloat16"},
    "dropout": {"rules": (("causal", True), ("dropout_rate", 0.1))},
    "softcap": {"rules": (("causal", True), ("softcap", 30.0))},
}


def run_kinds(names: Sequence[str], kinds: Sequence[str], seconds: float, show) -> None:
    """Measure every kind of call, first without positions."""
    for kind in kinds:
        shape = dataclasses.replace(Shape(T=2048, S=2048), **KINDS[kind])
        causal = dict(shape.rules).get("causal", False)
        chosen = [name for name in names if causal or not _made(name).causal_only]
        contestants = [ours(name, shape) for name in chosen]
        show("kinds", kind, f"{kind}, T=2048", measure(contestants, seconds, kind))


def _made(name: str) -> encodings.Encoding:
    return encodings.create(name, num_heads=1, head_dim=4, rngs=nnx.Rngs(0))


def run_short(names: Sequence[str], seconds: float, show) -> None:
    """Measure each scheme's dense path against its blockwise path, batch 16."""
    for T in (128, 256, 512):
        shape, contestants = Shape(B=16, T=T, S=T), []
        for name in names:
            for path, called in (("reference", "dense"), ("blockwise", "blockwise")):
                contestants.append(ours(name, shape, path))
                contestants[-1].name = f"{name}, {called}"
        title = f"batch 16, T={T}"
        show("short", str(T), title, measure(contestants, seconds, title))


def run_devices(names: Sequence[str], seconds: float, show) -> None:
    """Measure each scheme on one device and on two, all in one table."""
    names = [name for name in names if not _made(name).needs_tokens]
    contestants = []
    for devices in (1, 2):
        made = [ours(name, Shape(), devices=devices) for name in names]
        for contestant in made:
            contestant.name += f", {devices} device{'s' * (devices > 1)}"
        contestants += made
    contestants += [Contestant(*m) for m in bench_peers.PEERS["sdpa"](4096, HEADS, HEAD_DIM)]
    show("devices", "4096", "heads on devices, T=4096", measure(contestants, seconds, "devices"))


def run_memory(names: Sequence[str], show) -> None:
    """Measure what compiling alone shows: temporaries and compile time."""
    for T in (8192, 16384):
        made = [ours(name, Shape(T=T, S=T)) for name in names]
        results = [
            Result(c.name, None, None, None, None, c.compile_seconds, c.temporary_bytes)
            for c in made
        ]
        show("memory", str(T), f"compiled only, T={T}", results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the process's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    listed = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser.add_argument(
        "--parts", type=listed, default=list(PARTS), help=", ".join(PARTS + ASKED_FOR)
    )
    parser.add_argument("--encodings", type=listed, default=list(encodings.names()))
    parser.add_argument("--lengths", type=listed, default=["1024", "4096"])
    parser.add_argument("--kinds", type=listed, default=list(KINDS), help=", ".join(KINDS))
    parser.add_argument("--peers", type=listed, default=list(bench_peers.PEERS))
    parser.add_argument("--seconds", type=float, default=20, help="for each table")
    parser.add_argument("--device", help="cpu, gpu or tpu; default: what JAX finds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="time and memory against the length")
    options = parser.parse_args(arguments)
    for what, known in (
        ("parts", PARTS + ASKED_FOR),
        ("encodings", encodings.names()),
        ("kinds", KINDS),
        ("peers", [*bench_peers.PEERS, "none"]),
    ):
        if wrong := [name for name in getattr(options, what) if name not in known]:
            parser.error(f"--{what}: unknown {', '.join(wrong)}; known: {', '.join(known)}")
    if options.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(options.device, options.device))
    if "devices" in options.parts:
        jax.config.update("jax_num_cpu_devices", 2)
    if jax.default_backend() != "cpu":
        options.peers = [peer for peer in options.peers if peer in ("jax", "none")]
    names = ["none", *(name for name in options.encodings if name != "none")]
    console = Console(width=132)
    measured_with = _measured_with()  # now, as files may change meanwhile
    rates = matmul_rates()
    told = ", ".join(f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    console.print(f"float32 matrix products: {told}")

    found: dict[str, dict[str, list[Any]]] = {}
    record = {"where": measured_with, "matmul_flops": rates, "results": found}

    def show(part, key, title, results):
        """Print a table and save it, so that a run cut short keeps what it has measured."""
        console.print(table(title, results))
        found.setdefault(part, {})[key] = [dataclasses.asdict(result) for result in results]
        if options.json is not None:
            written = options.json.with_name(f".{options.json.name}")
            written.write_text(json.dumps(record, indent=1) + "\n")
            written.replace(options.json)

    if "lengths" in options.parts:
        for T in map(int, options.lengths):
            contestants = [ours(name, Shape(T=T, S=T)) for name in names]
            for peer in options.peers:
                if peer == "none":
                    continue
                if peer in bench_peers.DENSE and HEADS * T * T * 4 > 1e9:
                    gigabytes = HEADS * T * T * 4 / 1e9
                    console.print(f"{peer} is left out at T={T}: arrays of {gigabytes:.1f} GB")
                    continue
                try:
                    made = [Contestant(*m) for m in bench_peers.PEERS[peer](T, HEADS, HEAD_DIM)]
                    for contestant in made:
                        if contestant.forward:
                            contestant.forward()
                except Exception as error:  # another library's failure must not end this run
                    reason = (str(error).splitlines() or [type(error).__name__])[0]
                    console.print(f"{peer} is left out: {reason}", highlight=False)
                    continue
                contestants += made
            title = f"B=1, {HEADS} heads of {HEAD_DIM}, float32, causal, T={T}"
            show("lengths", str(T), title, measure(contestants, options.seconds, f"T={T}"))
    if "decode" in options.parts:
        steps = [decode_step(name, 4096) for name in names]
        title = "one decode step, cache of 4096"
        show("decode", "4096", title, measure(steps, options.seconds, title))
    if "memory" in options.parts:
        run_memory(names, show)
    if "short" in options.parts:
        run_short(names, options.seconds, show)
    if "kinds" in options.parts:
        run_kinds(names, options.kinds, options.seconds, show)
    if "devices" in options.parts:
        run_devices(names, options.seconds, show)
    if options.picture is not None and "lengths" in found:
        bench_tables.draw(found["lengths"]).savefig(options.picture, dpi=110)
    return 0


def _measured_with() -> dict[str, Any]:
    return {
        "commit": provenance.commit(), "python": platform.python_version(), "jax": jax.__version__,
        "device": jax.devices()[0].device_kind, "machine": provenance.machine(),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
