"""Check relpos on this machine's accelerator, and measure it against cuDNN.

    python scripts/check_device.py [--minutes 5] [--encodings none,t5] [--calls packed] [--out docs/devices] [--small]

Two parts, each written to OUT/NAME.json and OUT/NAME.md as it goes, so that a run cut short keeps its results:

- correctness: every scheme on every path, output and gradients (to queries, keys, values and parameters), against the
  dense path on this machine's CPU in float32; what does not compile is listed by scheme;
- speed: bfloat16, causal, forward and forward + backward, against jax.nn.dot_product_attention by cuDNN, without a bias
  and with a materialised one: TFLOP/s, milliseconds and bytes of temporaries.

It needs nothing but the package. Several threads compile the programs before anything is timed. --small is a rehearsal
with small sizes, which a CPU can run.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import relpos
from relpos import encodings
from relpos.experiments import provenance

PATHS = ("reference", "blockwise", "pallas")
TOLERANCES = {"float32": 2e-5, "bfloat16": 3e-2}  # relative to the largest number of each array


@dataclasses.dataclass(frozen=True)
class Call:
    """One attention call to check."""

    B: int = 2
    T: int = 300
    S: int = 300
    N: int = 4
    K: int = 2
    H: int = 64
    causal: bool = True
    packed: bool = False
    dtype: str = "float32"
    window: tuple[int, int] | None = None
    start: int | None = None  # the first position, passed as an array
    paths: tuple[str, ...] = ("auto",)


CALLS = {
    "packed": Call(packed=True, paths=PATHS),
    "bfloat16": Call(dtype="bfloat16", paths=("pallas",)),
    "cross": Call(S=200, causal=False),
    "bidirectional": Call(T=320, S=320, causal=False, paths=("pallas",)),
    "windowed": Call(causal=False, window=(100, 50)),
    "offset": Call(start=100),
}
# Besides the schemes: a sum, a sum whose terms have bands of their own, and heads of two kinds.
COMPOSED = ("rope+t5", "shaw+kerple+fox", "rope/alibi")
LENGTHS = (2048, 4096, 8192, 16384)
TOKENS, FEATURES = 16384, 1024  # in a batch; of all heads together
SMALL = 64


@dataclasses.dataclass(frozen=True)
class Program:
    """Something to compile: a function and its arguments."""

    function: Callable
    arguments: Any

    def compiled(self, tuned: bool = True) -> Any:
        """Compile for the arguments' device; without tuning it takes a fraction of the time."""
        options: dict[str, Any] = {} if tuned else {"xla_gpu_autotune_level": 0}
        return jax.jit(self.function).lower(*self.arguments).compile(options)


def gradients(attend: Callable) -> Callable:
    """Return a function that gives the output and the gradients to all arguments but the first, the output's weight."""

    def both(weight, *arguments):
        out, pull = jax.vjp(attend, *arguments)
        return out, pull(weight.astype(out.dtype))

    return both


def attend_with(name: str, call: Call, implementation: Any) -> tuple[Callable, Any]:
    """Return one scheme's attention, a function of (trained, q, k, v, x), and its trained parameters."""
    options: dict[str, Any] = {}
    if name in encodings.names() and "bidirectional" in encodings.options(name):
        options["bidirectional"] = not call.causal
    encoding = encodings.create(
        name, num_heads=call.N, num_kv_heads=call.K, head_dim=call.H, features=call.N * call.H,
        rngs=nnx.Rngs(0), **options,
    )  # fmt: skip
    graphdef, trained, fixed = nnx.split(encoding, nnx.Param, ...)  # type: ignore[misc]
    places: dict[str, Any] = {}
    if call.packed:  # three documents, and padding
        ids = jnp.asarray(np.minimum(np.arange(call.T) // (call.T // 3 - 1) + 1, 4) % 4)
        places = {"q_segments": ids, "k_segments": ids}
    if call.start is not None:
        at = relpos.positions.consecutive(jnp.asarray(call.start))
        places |= {"q_positions": at, "k_positions": at}

    def attend(trained, q, k, v, x):
        made = nnx.merge(graphdef, trained, fixed)
        features = {}
        if made.needs_tokens:
            found, _ = encodings.tokens(made, x)
            first = lambda n: jax.tree.map(lambda x: x[:, :n], found)  # noqa: E731
            features = {"q_features": first(call.T), "k_features": first(call.S)}
        in_attention = None if made.adds_to_input() else made
        return relpos.attention(
            q, k, v, encoding=in_attention, causal=call.causal, implementation=implementation,
            window=call.window, **features, **places,
        )  # fmt: skip

    return attend, trained


def draw(call: Call, trained) -> tuple[tuple[Any, ...], jax.Array]:
    """Return random arguments, and a random weight for the output."""
    drawn = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(drawn.standard_normal(shape), call.dtype)

    q = array(call.B, call.T, call.N, call.H)
    k, v = (array(call.B, call.S, call.K, call.H) for _ in range(2))
    x = array(call.B, max(call.T, call.S), call.N * call.H)
    weight = array(*q.shape)
    # Some schemes start from zeros, which would hide mistakes.
    moved = lambda p: p + 0.1 * jnp.asarray(drawn.standard_normal(p.shape), p.dtype)  # noqa: E731
    return (jax.tree.map(moved, trained), q, k, v, x), weight


def difference(found, wanted) -> float:
    """Return the largest difference of the output, or of the gradients, relative to the largest number among them.

    Among all of them, as the gradient of an offset to all logits of a row is only rounding.
    """
    worst = 0.0
    for a, b in zip(found, wanted, strict=True):
        a, b = (
            np.concatenate([np.ravel(x).astype(np.float64) for x in jax.tree.leaves(t)])
            for t in (a, b)
        )
        off = np.abs(a - b).max() / np.abs(b).max()
        worst = max(worst, float("inf") if np.isnan(off) else float(off))
    return worst


def check(
    names: Sequence[str],
    calls: Sequence[str],
    small: bool,
    pool: ThreadPoolExecutor,
    left: Callable[[], float],
) -> Iterator[dict[str, Any]]:
    """Yield the result of each scheme, call and path: its difference, or what went wrong.

    Programs that are not compiled after half of the time are left out.
    """
    until = left() / 2
    cpu = jax.devices("cpu")[0]

    def on_cpu(name, call):
        with jax.default_device(cpu):
            attend, trained = attend_with(name, call, "reference")
            # The numbers that the device gets, rounded as there, but computed with in float32.
            arguments, weight = jax.tree.map(lambda x: x.astype("float32"), draw(call, trained))
            return Program(gradients(attend), (weight, *arguments)).compiled()(weight, *arguments)

    def on_device(name, call, path):
        attend, trained = attend_with(name, call, path)
        arguments, weight = draw(call, trained)
        began = time.perf_counter()
        with jax.default_matmul_precision("highest"):
            program = Program(gradients(attend), (weight, *arguments)).compiled(tuned=False)
        return program(weight, *arguments), time.perf_counter() - began

    jobs: list[tuple[str, str, str, Future, Future]] = []
    for kind in calls:
        call = CALLS[kind]
        if small:
            call = dataclasses.replace(call, B=1, T=SMALL, S=min(call.S, SMALL), H=16)
            if call.window:
                call = dataclasses.replace(call, window=(20, 10))
        for name in names:
            known = name in encodings.names()
            if not call.causal and (not known or encodings.scheme(name).causal_only):
                continue
            wanted = pool.submit(on_cpu, name, call)
            for path in call.paths:
                jobs.append((kind, name, path, wanted, pool.submit(on_device, name, call, path)))
    for kind, name, path, wanted, found in jobs:
        result: dict[str, Any] = {"call": kind, "scheme": name, "path": path}
        wait((wanted, found), timeout=max(0, left() - until))
        if not (wanted.done() and found.done()):
            found.cancel()
            wanted.cancel()
            continue
        try:
            given, result["compile_s"] = found.result()
            result["difference"] = difference(given, wanted.result())
            result["ok"] = result["difference"] < TOLERANCES[CALLS[kind].dtype]
        except Exception as error:  # told, and the others go on
            result |= {"ok": False, "error": _told(error)}
        yield result


def _told(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".strip()
    return text if len(text) < 600 else f"{text[:300]} ... {text[-300:]}"


def contestants(names: Sequence[str], T: int, N: int, H: int) -> dict[str, tuple[Callable, Any]]:
    """Return every attention to time at this size, by name, and its trained parameters."""
    found: dict[str, tuple[Callable, Any]] = {}

    def cudnn(_, q, k, v, x):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")

    def cudnn_with_bias(table_NT, q, k, v, x):
        d = jnp.maximum(jnp.arange(T)[:, None] - jnp.arange(T), 0)
        bias = table_NT[None, :, d].astype(q.dtype)
        return jax.nn.dot_product_attention(q, k, v, bias, is_causal=True, implementation="cudnn")

    found["cuDNN"] = (cudnn, ())
    found["cuDNN, bias [N, T, T]"] = (cudnn_with_bias, jnp.zeros((N, T)))
    for name in names:
        for path in ("blockwise", "auto"):
            call = Call(1, T, T, N, N, H, dtype="bfloat16")
            found[f"{name}, {path}"] = attend_with(name, call, path)
    return found


def sizes(names: Sequence[str], small: bool) -> Iterator[tuple[int, int, Sequence[str]]]:
    """Yield lengths, head sizes and the schemes that take part; all take part at one size."""
    few = [name for name in ("none", "t5", "shaw") if name in names]
    if small:
        yield SMALL, 16, names
        return
    yield 4096, 64, names
    for T in LENGTHS:
        for H in (64, 128):
            if (T, H) != (4096, 64):
                yield T, H, few


def measure(
    names: Sequence[str], small: bool, pool: ThreadPoolExecutor, left: Callable[[], float]
) -> Iterator[dict[str, Any]]:
    """Yield the time and memory of each contestant, size and pass while time is left."""
    tokens, features = (SMALL, 32) if small else (TOKENS, FEATURES)
    compiling: dict[tuple[int, int, str, str], tuple[Future, Any]] = {}
    for T, H, chosen in sizes(names, small):
        B, N = max(1, tokens // T), features // H
        keys = jax.random.split(jax.random.key(0), 5)
        q, k, v, weight = (jax.random.normal(key, (B, T, N, H), jnp.bfloat16) for key in keys[:4])
        x = jax.random.normal(keys[4], (B, T, features), jnp.bfloat16)
        for name, (attend, trained) in contestants(chosen, T, N, H).items():
            arguments = (trained, q, k, v, x)
            step = Program(gradients(attend), (weight, *arguments))
            for which, program in (("forward", Program(attend, arguments)), ("step", step)):
                compiling[T, H, name, which] = pool.submit(program.compiled), program.arguments
    # Nothing compiles during timing; programs that are not ready in time are left out.
    wait([program for program, _ in compiling.values()], timeout=max(0, 0.7 * left()))
    # A compilation that has started cannot be cancelled.
    wait([program for program, _ in compiling.values() if not program.cancel()])
    for (T, H, name, which), (future, arguments) in compiling.items():
        B, N = max(1, tokens // T), features // H
        result = {"T": T, "H": H, "B": B, "N": N, "name": name, "pass": which}
        if left() < 0 or future.cancelled() or not future.done():
            continue
        try:
            program = future.result()
            seconds = _median_seconds(program, arguments)
            flops = (2 if which == "forward" else 7) * 2 * B * N * H * T * T / 2
            result |= {
                "ms": 1e3 * seconds, "tflops": flops / seconds / 1e12,
                "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
                "logits_bytes": B * N * T * T * 2,
            }  # fmt: skip
        except Exception as error:  # told, and the others go on
            result["error"] = _told(error)
        yield result


def _median_seconds(program, arguments) -> float:
    """Time a program; a sample is several calls in a row, so that the host's share is hidden."""
    jax.block_until_ready(program(*arguments))
    began = time.perf_counter()
    jax.block_until_ready(program(*arguments))
    once = time.perf_counter() - began
    in_a_row, samples = max(1, min(20, int(0.02 / once))), 5 if once < 0.2 else 2
    times = []
    for _ in range(samples):
        began = time.perf_counter()
        for _ in range(in_a_row):
            out = program(*arguments)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - began) / in_a_row)
    return statistics.median(times)


def tables(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    facts = record["where"]
    lines = [f"# {facts['device']}", "", ", ".join(f"{k} {v}" for k, v in facts.items()), ""]
    checks = record["checks"]
    wrong = [c for c in checks if not c["ok"]]
    lines += [f"## Correctness: {len(checks) - len(wrong)} of {len(checks)} calls agree", ""]
    lines += [
        "| scheme | "
        + " | ".join(f"{c}, {p}" for c, call in CALLS.items() for p in call.paths)
        + " |"
    ]
    lines += ["|---" * (1 + sum(len(call.paths) for call in CALLS.values())) + "|"]
    by_place = {(c["scheme"], c["call"], c["path"]): c for c in checks}
    for name in dict.fromkeys(c["scheme"] for c in checks):
        cells = []
        for kind, call in CALLS.items():
            for path in call.paths:
                c = by_place.get((name, kind, path), {})
                number = f"{c['difference']:.0e}" if "difference" in c else ""
                mark = "" if c.get("ok", True) else " **wrong**" if number else "**error**"
                cells.append(number + mark)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        *(
            f"- {c['scheme']}, {c['call']}, {c['path']}: {c['error']}"
            for c in wrong
            if "error" in c
        ),
    ]
    lines += ["", "## Speed: bfloat16, causal", ""]
    lines += [
        "| T | head size | attention | forward ms | of cuDNN | TFLOP/s | step ms | of cuDNN | TFLOP/s | temporaries |"
    ]
    lines += ["|---" * 10 + "|"]
    speeds: dict[tuple, dict[str, Any]] = {}
    for s in record["speeds"]:
        speeds.setdefault((s["T"], s["H"], s["name"]), {})[s["pass"]] = s
    for (T, H, name), passes in speeds.items():
        base = speeds.get((T, H, "cuDNN"), {})
        cells = []
        for which in ("forward", "step"):
            s, b = passes.get(which, {}), base.get(which, {})
            ratio = f"{s['ms'] / b['ms']:.2f}x" if "ms" in s and "ms" in b else ""
            cells += (
                [f"{s['ms']:.2f}", ratio, f"{s['tflops']:.0f}"] if "ms" in s else ["error", "", ""]
            )
        memory = passes.get("step", {}).get("temporary_bytes")
        cells.append("" if memory is None else f"{memory / 1e6:.0f} MB")
        lines.append(f"| {T} | {H} | {name} | " + " | ".join(cells) + " |")
    errors = [s for s in record["speeds"] if "error" in s]
    lines += ["", *(f"- {s['name']}, T={s['T']}, {s['pass']}: {s['error']}" for s in errors)]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, write and print; return 1 if a call disagrees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    listed = lambda text: [part for part in text.split(",") if part]  # noqa: E731
    parser.add_argument("--encodings", type=listed, default=[*encodings.names(), *COMPOSED])
    parser.add_argument(
        "--minutes", type=float, default=5, help="after which nothing more is begun"
    )
    parser.add_argument("--parts", type=listed, default=["checks", "speeds"], help="checks, speeds")
    parser.add_argument("--calls", type=listed, default=list(CALLS), help=", ".join(CALLS))
    parser.add_argument("--out", type=Path, default=provenance.ROOT / "docs" / "devices")
    parser.add_argument("--small", action="store_true", help="a rehearsal in small sizes")
    options = parser.parse_args(arguments)
    known = [*encodings.names(), *COMPOSED]
    if wrong := [name for name in options.encodings if name not in known]:
        parser.error(f"--encodings: unknown {', '.join(wrong)}; known: {', '.join(known)}")
    if wrong := [call for call in options.calls if call not in CALLS]:
        parser.error(f"--calls: unknown {', '.join(wrong)}; known: {', '.join(CALLS)}")
    began = time.monotonic()
    device = jax.devices()[0]
    left = lambda: 60 * options.minutes - (time.monotonic() - began)  # noqa: E731
    record: dict[str, Any] = {
        "where": {
            "device": device.device_kind, "platform": device.platform, "jax": jax.__version__,
            "python": platform.python_version(), "commit": provenance.commit(), "host": provenance.machine(),
        },
        "checks": [], "speeds": [],
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    name = "-".join(device.device_kind.lower().split())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = {
            "checks": check(options.encodings, options.calls, options.small, pool, left),
            "speeds": measure(options.encodings, options.small, pool, left),
        }
        for part in options.parts:
            for result in parts[part]:
                record[part].append(result)
                record["seconds"] = round(time.monotonic() - began)
                print(*result.values(), flush=True)
                for suffix, text in (
                    ("json", json.dumps(record, indent=1)),
                    ("md", tables(record)),
                ):
                    written = options.out / f".{name}.{suffix}"
                    written.write_text(text)
                    written.replace(options.out / f"{name}.{suffix}")
    print(tables(record))
    return 0 if all(check["ok"] for check in record["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
