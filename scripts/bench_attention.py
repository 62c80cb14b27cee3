"""Measure what positions cost: every encoding on every path, against attention without positions and against peers.

    python scripts/bench_attention.py [--encodings none,t5] [--lengths 1024,4096] [--kinds causal,packed]
                                      [--peers none] [--parts lengths,short,decode] [--json FILE] [--picture FILE]

Parts:

- lengths: B=1, 8 heads of 64, float32, causal, one table for each length: forward, forward + backward, compile time,
  bytes of temporaries, and the same for the peers that are installed;
- short: batch 16 at T=128 ... 512, the usual training shape, against the dense path;
- kinds: other shapes and rules at T=2048: bidirectional, cross, windows, packed, grouped queries, scattered positions,
  a chunk of 512 after 1536, bfloat16, dropout, softcap;
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
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import bench_peers
import bench_tables
import jax
import jax.numpy as jnp
from calls import HEAD_DIM, HEADS, Call, attention_of, draw
from flax import nnx
from harness import Parser, Row, by_turns, listed, measured_on, median_iqr, rich_table, save, timed
from jax.sharding import AxisType, PartitionSpec
from rich.console import Console

import relpos
from relpos import encodings
from relpos.attention.per_head import SPLIT

CONSOLE = Console(width=132)


@dataclasses.dataclass
class Contestant:
    """Something to time: calls that return when the work is done, or None for work that it cannot do."""

    name: str
    forward: Callable[[], Any]
    step: Callable[[], Any] | None = None
    compile_seconds: float | None = None
    temporary_bytes: int | None = None

    def row(self, **times: Sequence[float]) -> Row:
        """Return the figures; seconds are medians, spreads are interquartile ranges."""
        found: Row = {"name": self.name}
        for kind in ("forward", "step"):
            found[kind], found[f"{kind}_spread"] = (
                median_iqr(times[kind]) if kind in times else (None, None)
            )
        return found | {
            "compile_seconds": self.compile_seconds, "temporary_bytes": self.temporary_bytes
        }  # fmt: skip


Tables = Iterator[tuple[str, str, list[Contestant]]]  # a table's key, its title, and who takes part


def ours(name: str, call: Call, implementation: Any = "auto", devices: int = 1) -> Contestant:
    """Return an encoding of this library; its step differentiates queries, keys, values and all parameters.

    With several devices, each has its share of the heads; encodings that read features are not split yet.
    """
    attend, fixed, trained = attention_of(name, call, implementation)
    q, k, v, x, weight = draw(call)
    if devices > 1:
        attend = _heads_apart(attend, (fixed, trained), devices)

    # What is not an argument would be a constant, which slows compilation down.
    def loss(trained, q, k, v, fixed, x, weight):
        return (attend(fixed, trained, q, k, v, x) * weight).astype(jnp.float32).sum()

    forward, _, _ = _compiled(attend, (fixed, trained, q, k, v, x))
    arguments = (trained, q, k, v, fixed, x, weight)
    return Contestant(name, forward, *_compiled(jax.grad(loss, (0, 1, 2, 3)), arguments))


def _heads_apart(attend, parameters, devices: int):
    """Return the same call with its heads on several devices, which need not communicate."""
    mesh = jax.make_mesh((devices,), ("heads",), axis_types=(AxisType.Auto,))
    heads = PartitionSpec(None, None, "heads")
    of_parameters = jax.tree.map(
        lambda x: PartitionSpec("heads" if isinstance(x, SPLIT) else None),
        parameters,
        is_leaf=lambda x: isinstance(x, nnx.Variable),
    )
    specs = (*of_parameters, heads, heads, heads, PartitionSpec())
    return jax.shard_map(attend, mesh=mesh, in_specs=specs, out_specs=heads)


def decode_step(name: str, cached: int) -> Contestant:
    """Return a step that decodes one token with a layer whose cache holds `cached` tokens."""
    encoding = None if encodings.scheme(name).adds_to_input() else name
    layer = relpos.RelativeAttention(HEADS, HEADS * HEAD_DIM, encoding=encoding, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (1, cached, HEADS * HEAD_DIM))
    graphdef, state = nnx.split(layer)

    def run(state, x, cache):
        return nnx.merge(graphdef, state).decode(x, cache)

    _, cache = jax.jit(run)(state, x, layer.init_cache(1, cached + 1))
    forward, seconds, temporary = _compiled(run, (state, x[:, :1], cache))
    return Contestant(name, forward, None, seconds, temporary)


def peer(name: str, T: int) -> Contestant | None:
    """Return another library's attention; None if it cannot take part; a line says why."""
    gigabytes = HEADS * T * T * 4 / 1e9
    if name in bench_peers.DENSE and gigabytes > 1:
        CONSOLE.print(f"{name} is left out at T={T}: arrays of {gigabytes:.1f} GB")
        return None
    try:
        made = Contestant(*bench_peers.PEERS[name](T, HEADS, HEAD_DIM))
        made.forward()
    except Exception as error:  # another library's failure must not end this run
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        CONSOLE.print(f"{name} is left out: {reason}", highlight=False)
        return None
    return made


def matmul_rates() -> dict[str, float]:
    """Return float32 operations per second, the best of ten: of large products, and of a block's two in sequence."""
    large = jnp.ones((2048, 2048))
    blocks, C, H = 64, 512, HEAD_DIM

    def in_blocks(q, k):
        add_block = lambda i, q: q + 1e-9 * ((q @ k[i].T) @ k[i])  # noqa: E731
        return jax.lax.fori_loop(0, blocks, add_block, q)

    contestants = {
        "large": (lambda a, b: a @ b, (large, large), 2 * 2048**3),
        "in blocks": (in_blocks, (jnp.ones((C, H)), jnp.ones((blocks, C, H))), 4 * blocks * C * C * H),
    }  # fmt: skip
    found = {}
    for name, (function, arguments, operations) in contestants.items():
        call, _, _ = _compiled(function, arguments)
        call()
        found[name] = operations / min(timed(call) for _ in range(10))
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


def measure(contestants: Sequence[Contestant], seconds: float, title: str) -> list[Row]:
    """Let contestants take turns for about `seconds`: at least 5 rounds, or 20 if some sit out.

    A contestant that takes over three times as long as the first one takes part only in every fourth round.
    """
    calls = {
        (i, kind): call
        for i, contestant in enumerate(contestants)
        for kind in ("forward", "step")
        if (call := getattr(contestant, kind)) is not None
    }
    once = {who: timed(call) for who, call in calls.items()}
    seldom = {who for who, took in once.items() if took > 3 * once.get((0, who[1]), took)}
    a_round = sum(took / 4 if who in seldom else took for who, took in once.items())
    rounds = max(20 if seldom else 5, min(100, int(seconds / a_round)))
    # The turn before has left its data in the caches, which matters to a short call.
    turn = lambda who: timed(calls[who], warm=once[who] < 0.02)  # noqa: E731
    times = by_turns(calls, turn, rounds, title, seldom)
    return [
        contestant.row(**{kind: times[who, kind] for who, kind in times if who == i})
        for i, contestant in enumerate(contestants)
    ]


KINDS: dict[str, dict[str, Any]] = {
    "causal": {},
    "bidirectional": {"causal": False},
    "cross": {"causal": False, "S": 1024},
    "window 256": {"window": 256},
    "packed 256": {"packed": 256},
    "grouped 8:2": {"K": 2},
    "positions": {"scattered": True},
    "chunk": {"T": 512, "starts": (1536, 0)},
    "bfloat16": {"dtype": "bfloat16"},
    "dropout": {"dropout_rate": 0.1},
    "softcap": {"softcap": 30.0},
}


def lengths(names: Sequence[str], options: argparse.Namespace) -> Tables:
    for T in map(int, options.lengths):
        contestants = [ours(name, Call(T=T, S=T)) for name in names]
        contestants += filter(None, [peer(name, T) for name in options.peers])
        yield str(T), f"B=1, {HEADS} heads of {HEAD_DIM}, float32, causal, T={T}", contestants


def decode(names: Sequence[str], options: argparse.Namespace) -> Tables:
    steps = [decode_step(name, 4096) for name in names]
    yield "4096", "one decode step, cache of 4096", steps


def memory(names: Sequence[str], options: argparse.Namespace) -> Tables:
    for T in (8192, 16384):
        yield str(T), f"compiled only, T={T}", [ours(name, Call(T=T, S=T)) for name in names]


def short(names: Sequence[str], options: argparse.Namespace) -> Tables:
    """Yield each scheme's dense path and its blockwise path, batch 16."""
    for T in (128, 256, 512):
        contestants = []
        for name in names:
            for path, called in (("reference", "dense"), ("blockwise", "blockwise")):
                contestants.append(ours(name, Call(B=16, T=T, S=T), path))
                contestants[-1].name = f"{name}, {called}"
        yield str(T), f"batch 16, T={T}", contestants


def kinds(names: Sequence[str], options: argparse.Namespace) -> Tables:
    for kind in options.kinds:
        call = dataclasses.replace(Call(T=2048, S=2048), **KINDS[kind])
        able = [name for name in names if call.causal or not _made(name).causal_only]
        yield kind, f"{kind}, T=2048", [ours(name, call) for name in able]


def devices(names: Sequence[str], options: argparse.Namespace) -> Tables:
    """Yield each scheme on one device and on two, all in one table."""
    names = [name for name in names if not _made(name).needs_tokens]
    contestants = []
    for number in (1, 2):
        for name in names:
            contestants.append(ours(name, Call(), devices=number))
            contestants[-1].name += f", {number} device{'s' * (number > 1)}"
    contestants += filter(None, [peer("sdpa", 4096)])
    yield "4096", "heads on devices, T=4096", contestants


def _made(name: str) -> encodings.Encoding:
    return encodings.create(name, num_heads=1, head_dim=4, rngs=nnx.Rngs(0))


PARTS = {
    "lengths": lengths, "decode": decode, "memory": memory, "short": short, "kinds": kinds
}  # fmt: skip
ASKED_FOR = {"devices": devices}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write; return the process's exit status."""
    parser = Parser(__doc__)
    parser.add_names("--parts", [*PARTS, *ASKED_FOR], default=PARTS)
    parser.add_names("--encodings", encodings.names())
    parser.add_argument("--lengths", type=listed, default=["1024", "4096"])
    parser.add_names("--kinds", KINDS)
    parser.add_names("--peers", [*bench_peers.PEERS, "none"], default=bench_peers.PEERS)
    parser.add_argument("--seconds", type=float, default=20, help="for each table")
    parser.add_argument("--device", help="cpu, gpu or tpu; default: what JAX finds")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="time and memory against the length")
    options = parser.parse_args(arguments)
    if options.device:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(options.device, options.device))
    if "devices" in options.parts:
        jax.config.update("jax_num_cpu_devices", 2)
    able = bench_peers.PEERS if jax.default_backend() == "cpu" else ["jax"]
    options.peers = [name for name in options.peers if name in able]
    names = ["none", *(name for name in options.encodings if name != "none")]
    found: dict[str, dict[str, list[Row]]] = {}
    # The commit is read now, as files may change meanwhile.
    measured_with, rates = measured_on(), matmul_rates()
    record = {"where": measured_with, "matmul_flops": rates, "results": found}
    told = (f"{name} {rate / 1e9:.0f} GFLOP/s" for name, rate in rates.items())
    CONSOLE.print(f"float32 matrix products: {', '.join(told)}")
    for part, tables in (PARTS | ASKED_FOR).items():
        if part not in options.parts:
            continue
        for key, title, contestants in tables(names, options):
            if part == "memory":
                rows = [contestant.row() for contestant in contestants]
            else:
                rows = measure(contestants, options.seconds, title)
            found.setdefault(part, {})[key] = rows
            CONSOLE.print(
                rich_table(f"{title}; ratios to {rows[0]['name']}", bench_tables.ratio_table(rows))
            )
            if options.json is not None:
                save(options.json, record)
    if options.picture is not None and "lengths" in found:
        bench_tables.draw(record).savefig(options.picture, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
