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

import dataclasses
import functools
import os
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
from calls import Call, attention_of, draw
from harness import Cells, Parser, Row, markdown, measured_on, save, timed

from relpos import encodings
from relpos.experiments import provenance
from relpos.files import write_atomically

PATHS = ("reference", "blockwise", "pallas")
TOLERANCES = {"float32": 2e-5, "bfloat16": 3e-2}  # relative to the largest number of each array


@dataclasses.dataclass(frozen=True)
class Check(Call):
    """A call to check, and the paths to check it on."""

    B: int = 2
    T: int = 300
    S: int = 300
    N: int = 4
    K: int = 2
    paths: tuple[str, ...] = ("auto",)

    def in_small(self) -> "Check":
        """Return the call for a rehearsal."""
        S, packed = min(self.S, SMALL), self.packed and 20
        window = (20, 10) if self.window else None
        return dataclasses.replace(self, B=1, T=SMALL, S=S, H=16, packed=packed, window=window)


CALLS = {
    "packed": Check(packed=99, paths=PATHS),  # three documents, and padding
    "bfloat16": Check(dtype="bfloat16", paths=("pallas",)),
    "cross": Check(S=200, causal=False),
    "bidirectional": Check(T=320, S=320, causal=False, paths=("pallas",)),
    "windowed": Check(causal=False, window=(100, 50)),
    "offset": Check(starts=(100, 100)),
}
# Besides the schemes: a sum, a sum whose terms have bands of their own, and heads of two kinds.
COMPOSED = ("rope+t5", "shaw+kerple+fox", "rope/alibi")
LENGTHS = (2048, 4096, 8192, 16384)
TOKENS, FEATURES = 16384, 1024  # in a batch; of all heads together
SMALL = 64


def compiled(function: Callable, arguments: Any, **options: Any) -> Any:
    """Compile for the arguments' device, with options of XLA."""
    return jax.jit(function).lower(*arguments).compile(options)


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
    attend, fixed, trained = attention_of(name, call, implementation, **options)
    return functools.partial(attend, fixed), trained


def prepared(name: str, call: Call, implementation: Any) -> tuple[Callable, tuple[Any, ...]]:
    """Return the function that is checked, and random arguments."""
    attend, trained = attend_with(name, call, implementation)
    *arrays, weight = draw(call)
    drawn = np.random.default_rng(1)
    # Some schemes start from zeros, which would hide mistakes.
    moved = lambda p: p + 0.1 * jnp.asarray(drawn.standard_normal(p.shape), p.dtype)  # noqa: E731
    return gradients(attend), (weight, jax.tree.map(moved, trained), *arrays)


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
) -> Iterator[Row]:
    """Yield the result of each scheme, call and path: its difference, or what went wrong.

    Programs that are not compiled after half of the time are left out.
    """
    until = left() / 2
    cpu = jax.devices("cpu")[0]

    def on_cpu(name, call):
        with jax.default_device(cpu):
            function, arguments = prepared(name, call, "reference")
            # The numbers that the device gets, rounded as there, but computed with in float32.
            arguments = jax.tree.map(lambda x: x.astype("float32"), arguments)
            return compiled(function, arguments)(*arguments)

    def on_device(name, call, path):
        function, arguments = prepared(name, call, path)
        began = time.perf_counter()
        with jax.default_matmul_precision("highest"):
            # Without tuning, compilation takes a fraction of the time.
            program = compiled(function, arguments, xla_gpu_autotune_level=0)
        return program(*arguments), time.perf_counter() - began

    jobs: list[tuple[str, str, str, Future, Future]] = []
    for kind in calls:
        call = CALLS[kind].in_small() if small else CALLS[kind]
        for name in names:
            known = name in encodings.names()
            if not call.causal and (not known or encodings.scheme(name).causal_only):
                continue
            wanted = pool.submit(on_cpu, name, call)
            for path in call.paths:
                jobs.append((kind, name, path, wanted, pool.submit(on_device, name, call, path)))
    for kind, name, path, wanted, found in jobs:
        result: Row = {"call": kind, "scheme": name, "path": path}
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

    def cudnn(_, q, k, v, x):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")

    def cudnn_with_bias(table_NT, q, k, v, x):
        d = jnp.maximum(jnp.arange(T)[:, None] - jnp.arange(T), 0)
        bias = table_NT[None, :, d].astype(q.dtype)
        return jax.nn.dot_product_attention(q, k, v, bias, is_causal=True, implementation="cudnn")

    found: dict[str, tuple[Callable, Any]] = {
        "cuDNN": (cudnn, ()), "cuDNN, bias [N, T, T]": (cudnn_with_bias, jnp.zeros((N, T)))
    }  # fmt: skip
    call = Call(1, T, T, N, N, H, dtype="bfloat16")
    for name in names:
        for path in ("blockwise", "auto"):
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
) -> Iterator[Row]:
    """Yield the time and memory of each contestant, size and pass while time is left."""
    tokens, features = (SMALL, 32) if small else (TOKENS, FEATURES)
    compiling: list[tuple[Row, Future, Any]] = []
    for T, H, chosen in sizes(names, small):
        B, N = max(1, tokens // T), features // H
        keys = jax.random.split(jax.random.key(0), 5)
        q, k, v, weight = (jax.random.normal(key, (B, T, N, H), jnp.bfloat16) for key in keys[:4])
        x = jax.random.normal(keys[4], (B, T, features), jnp.bfloat16)
        for name, (attend, trained) in contestants(chosen, T, N, H).items():
            given = (trained, q, k, v, x)
            programs: dict[str, tuple[Callable, tuple[Any, ...]]] = {
                "forward": (attend, given), "step": (gradients(attend), (weight, *given))
            }  # fmt: skip
            for which, (function, arguments) in programs.items():
                result: Row = {"T": T, "H": H, "B": B, "N": N, "name": name, "pass": which}
                compiling.append((result, pool.submit(compiled, function, arguments), arguments))
    # Nothing compiles during timing; programs that are not ready in time are left out.
    wait([program for _, program, _ in compiling], timeout=max(0, 0.7 * left()))
    # A compilation that has started cannot be cancelled.
    wait([program for _, program, _ in compiling if not program.cancel()])
    for result, future, arguments in compiling:
        if left() < 0 or future.cancelled():
            continue
        try:
            program = future.result()
            seconds = _median_seconds(program, arguments)
            pairs = result["B"] * result["N"] * result["T"] ** 2
            flops = (2 if result["pass"] == "forward" else 7) * result["H"] * pairs
            result |= {
                "ms": 1e3 * seconds, "tflops": flops / seconds / 1e12,
                "temporary_bytes": program.memory_analysis().temp_size_in_bytes,
                "logits_bytes": 2 * pairs,
            }  # fmt: skip
        except Exception as error:  # told, and the others go on
            result["error"] = _told(error)
        yield result


def _median_seconds(program, arguments) -> float:
    """Time a program; a sample is several calls in a row, so that the host's share is hidden."""

    def call(times: int = 1):
        for _ in range(times):
            out = program(*arguments)
        jax.block_until_ready(out)

    once = timed(call, warm=True)
    in_a_row, samples = max(1, min(20, int(0.02 / once))), 5 if once < 0.2 else 2
    several = functools.partial(call, in_a_row)
    return statistics.median(timed(several) for _ in range(samples)) / in_a_row


def tables(record: dict[str, Any]) -> str:
    """Return the record as Markdown."""
    facts, checks, speeds = record["where"], record["checks"], record["speeds"]
    wrong = [c for c in checks if "error" in c]
    failed = [s for s in speeds if "error" in s]
    parts = [
        f"# {facts['device']}",
        ", ".join(f"{k} {v}" for k, v in facts.items()),
        f"## Correctness: {sum(c['ok'] for c in checks)} of {len(checks)} calls agree",
        markdown(differences(checks)),
        "\n".join(f"- {c['scheme']}, {c['call']}, {c['path']}: {c['error']}" for c in wrong),
        "## Speed: bfloat16, causal",
        markdown(times(speeds)),
        "\n".join(f"- {s['name']}, T={s['T']}, {s['pass']}: {s['error']}" for s in failed),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def differences(checks: Sequence[Row]) -> Cells:
    """Return a row for each scheme, a column for each call and path."""
    columns = [(kind, path) for kind, call in CALLS.items() for path in call.paths]
    found = {(c["scheme"], c["call"], c["path"]): c for c in checks}

    def cell(scheme: str, kind: str, path: str) -> str:
        c = found.get((scheme, kind, path))
        if c is None:
            return ""
        if "error" in c:
            return "**error**"
        return f"{c['difference']:.0e}" + ("" if c["ok"] else " **wrong**")

    schemes = dict.fromkeys(c["scheme"] for c in checks)
    body = [[name, *(cell(name, *column) for column in columns)] for name in schemes]
    return [["scheme", *map(", ".join, columns)], *body]


def times(speeds: Sequence[Row]) -> Cells:
    """Return a row for each size and contestant."""
    found = {(s["T"], s["H"], s["name"], s["pass"]): s for s in speeds}
    heads = ["forward ms", "of cuDNN", "TFLOP/s", "step ms", "of cuDNN", "TFLOP/s"]
    rows = [["T", "head size", "attention", *heads, "temporaries"]]
    for T, H, name in dict.fromkeys(place[:3] for place in found):
        cells = [str(T), str(H), name]
        for which in ("forward", "step"):
            ours, cudnn = (found.get((T, H, who, which), {}) for who in (name, "cuDNN"))
            ratio = f"{ours['ms'] / cudnn['ms']:.2f}x" if "ms" in ours and "ms" in cudnn else ""
            cells += (
                [f"{ours['ms']:.2f}", ratio, f"{ours['tflops']:.0f}"]
                if "ms" in ours
                else ["error", "", ""]
            )
        memory = found.get((T, H, name, "step"), {}).get("temporary_bytes")
        rows.append([*cells, "" if memory is None else f"{memory / 1e6:.0f} MB"])
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, measure, write and print; return 1 if a call disagrees."""
    parser = Parser(__doc__)
    parser.add_names("--encodings", [*encodings.names(), *COMPOSED])
    parser.add_argument("--minutes", type=float, default=5, help="then nothing more is begun")
    parser.add_names("--parts", ["checks", "speeds"])
    parser.add_names("--calls", CALLS)
    parser.add_argument("--out", type=Path, default=provenance.ROOT / "docs" / "devices")
    parser.add_argument("--small", action="store_true", help="a rehearsal in small sizes")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    left = lambda: 60 * options.minutes - (time.monotonic() - began)  # noqa: E731
    about = measured_on() | {"platform": jax.default_backend()}
    record: dict[str, Any] = {"where": about, "checks": [], "speeds": []}
    options.out.mkdir(parents=True, exist_ok=True)
    name = "-".join(about["device"].lower().split())
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
                save(options.out / f"{name}.json", record)
                write_atomically(options.out / f"{name}.md", tables(record))
    print(tables(record))
    return 0 if all(check["ok"] for check in record["checks"]) else 1


if __name__ == "__main__":
    sys.exit(main())
