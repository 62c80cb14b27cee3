"""Show the figures of scripts/bench_attention.py as a picture and as the Markdown tables of docs/performance.md.

python scripts/bench_tables.py docs/performance.json [--picture FILE]
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Row = dict[str, Any]  # a `Result` of bench_attention
Tables = dict[str, dict[str, list[Row]]]  # part -> title -> rows
SDPA, SDPA_BIAS = "PyTorch SDPA, no positions", "PyTorch SDPA, T5 bias tensor"
FLEX = "PyTorch FlexAttention, T5"


class Goal(NamedTuple):
    """One ratio of the goal table.

    Attributes:
      names: the contestants to which it applies; (): all encodings.
      field: the field of their rows.
      against: the contestant whose row is the denominator; "": the goal is not a ratio.
      least: the goal, an upper bound of the ratio.
      table: (part, title).
      base: the denominator's table, if it is another one.
    """

    what: str
    names: Sequence[str]
    field: str
    against: str
    least: float
    table: tuple[str, str] = ("lengths", "4096")
    base: tuple[str, str] | None = None


GOALS = (
    Goal("no positions against PyTorch SDPA", ["none"], "step", SDPA, 0.85),
    Goal("the same, forward", ["none"], "forward", SDPA, 0.75),
    Goal("against no positions", ["rope", "alibi", "kerple", "t5"], "step", "none", 1.10),
    Goal("against no positions", ["shaw"], "step", "none", 1.3),
    Goal("against no positions", ["transformer_xl"], "step", "none", 1.8),
    Goal("against no positions", ["fire", "deberta"], "step", "none", 2.2),
    Goal("against no positions", ["inkling"], "step", "none", 1.3),
    Goal("against no positions", ["selective_rope", "pope"], "step", "none", 1.4),
    Goal("against no positions", ["wall", "cope"], "step", "none", 2.5),
    Goal("against no positions", ["path"], "step", "none", 4.0),
    Goal("against no positions", ["dape"], "step", "none", 6.0),
    Goal("packed", ["shaw"], "step", "none", 1.35, ("kinds", "packed 256")),
    Goal("with grouped queries", ["shaw"], "step", "none", 1.35, ("kinds", "grouped 8:2")),
    Goal("packed", ["transformer_xl"], "step", "none", 2.0, ("kinds", "packed 256")),
    Goal("on other keys", ["transformer_xl"], "step", "none", 2.0, ("kinds", "cross")),
    Goal("at positions in any order", ["kerple"], "step", "none", 1.3, ("kinds", "positions")),
    Goal("at positions in any order", ["shaw"], "step", "none", 1.6, ("kinds", "positions")),
    Goal("at positions in any order", ["transformer_xl"], "step", "none", 2.5, ("kinds", "positions")),
    Goal("against PyTorch SDPA with a bias tensor", ["t5"], "step", SDPA_BIAS, 0.15),
    Goal("against compiled FlexAttention, forward", ["t5"], "forward", FLEX, 0.9),
    Goal(
        "temporaries at T=16384 against T=8192", (), "temporary_bytes", "same", 2.1,
        ("memory", "16384"), ("memory", "8192"),
    ),
    Goal("the same, against no positions", (), "temporary_bytes", "none", 1.3, ("memory", "16384")),
    Goal("seconds to compile at T=16384", (), "compile_seconds", "", 3.0, ("memory", "16384")),
    Goal("a step of decoding against no positions", (), "forward", "none", 1.1, ("decode", "4096")),
)  # fmt: skip


def of(rows: Sequence[Row], name: str) -> Row | None:
    return next((row for row in rows if row["name"] == name), None)


def ratios(results: Tables, goal: Goal) -> Iterator[tuple[str, float]]:
    """Yield each measured contestant and its figure."""
    rows = results.get(goal.table[0], {}).get(goal.table[1], [])
    part, title = goal.base or goal.table
    base = results.get(part, {}).get(title, [])
    for row in rows:
        if goal.names and row["name"] not in goal.names:
            continue
        other = of(base, row["name"] if goal.against == "same" else goal.against)
        value = row[goal.field]
        if value is None or (goal.against and (other is None or other[goal.field] is None)):
            continue
        yield row["name"], value / other[goal.field] if goal.against and other else value


def goal_table(results: Tables) -> list[list[str]]:
    """Return a row for each goal: what, goal, measured, whether it is met."""
    found = [["", "goal", "measured", ""]]
    for goal in GOALS:
        measured = dict(ratios(results, goal))
        if not measured:
            continue
        unit = "x" if goal.against else " s"
        if goal.names:
            what = f"{', '.join(f'`{name}`' for name in goal.names)} {goal.what}"
            shown = ", ".join(
                f"{measured[name]:.2f}{unit}" for name in goal.names if name in measured
            )
        else:
            worst = max(measured, key=lambda name: measured[name])
            what, shown = goal.what, f"at most {measured[worst]:.2f}{unit} (`{worst}`)"
        missed = [name for name, value in measured.items() if value > goal.least]
        verdict = f"missed by {', '.join(f'`{n}`' for n in missed)}" if missed else "met"
        found.append([what, f"{goal.least}{unit}", shown, verdict])
    return found + short_goals(results.get("short", {}))


def against_dense(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return scheme -> field -> the ratio of its blockwise path to its dense path."""
    found = {}
    for row in rows:
        name, path = row["name"].split(", ")
        dense = of(rows, f"{name}, dense")
        if path == "blockwise" and dense is not None:
            fields = ("forward", "step", "temporary_bytes")
            found[name] = {field: row[field] / dense[field] for field in fields}
    return found


def short_goals(by_length: dict[str, list[Row]]) -> list[list[str]]:
    """Return the goals at batch 16, from T=256 on: blockwise must not be slower than dense."""
    found = []
    for T in ("256", "512"):
        measured = {
            name: ratio["step"] for name, ratio in against_dense(by_length.get(T, [])).items()
        }
        if measured:
            worst = max(measured, key=lambda name: measured[name])
            missed = ", ".join(f"`{name}`" for name, value in measured.items() if value > 1)
            found.append([
                f"T={T}, batch 16, against the dense path", "1x",
                f"at most {measured[worst]:.2f}x (`{worst}`)", f"missed by {missed}" if missed else "met",
            ])  # fmt: skip
    return found


def short_table(by_length: dict[str, list[Row]]) -> list[list[str]]:
    """Compare the blockwise path with the dense one, a row for each length and scheme."""
    found = [["blockwise against dense", "forward", "forward + backward", "temporaries"]]
    for T, rows in by_length.items():
        for name, ratio in against_dense(rows).items():
            found.append([f"{name}, T={T}", *(f"{value:.2f}x" for value in ratio.values())])
    return found


def kinds_table(by_kind: dict[str, list[Row]]) -> list[list[str]]:
    """Compare forward + backward with `none` on the same kind of call, a row for each scheme."""
    names = dict.fromkeys(row["name"] for rows in by_kind.values() for row in rows)

    def cell(name, rows):
        row, none = of(rows, name), rows[0]
        if row is None:
            return ""
        return (
            f"{row['step'] / none['step']:.2f}x"
            if row is not none
            else f"{1e3 * row['step']:.0f} ms"
        )

    body = [[name, *(cell(name, rows) for rows in by_kind.values())] for name in names]
    return [["", *by_kind], *body]


def ratio_table(rows: Sequence[Row]) -> list[list[str]]:
    """Return ratios to the first row, then figures, without empty columns."""
    columns = {
        "forward": ("forward", 1.0, "x"), "forward + backward": ("step", 1.0, "x"),
        "forward, ms": ("forward", 1e3, "ms"), "forward + backward, ms": ("step", 1e3, "ms"),
        "compile, s": ("compile_seconds", 1.0, ".1f"), "temporaries, MB": ("temporary_bytes", 1e-6, ".0f"),
    }  # fmt: skip
    columns = {
        head: how for head, how in columns.items() if any(row[how[0]] is not None for row in rows)
    }

    def cell(row, field, factor, form):
        value = row[field]
        if value is None:
            return ""
        if form == "x":
            return f"{value / rows[0][field]:.2f}x" if rows[0][field] else ""
        if form == "ms":
            return f"{value * factor:.1f} ±{row[f'{field}_spread'] * factor:.1f}"
        return format(value * factor, form)

    body = [[row["name"], *(cell(row, *how) for how in columns.values())] for row in rows]
    return [["", *columns], *body]


def markdown(table: list[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in table]
    return "\n".join([lines[0], "|---" * len(table[0]) + "|", *lines[1:]])


def pages(record: dict[str, Any]) -> str:
    """Return every table of a record."""
    results: Tables = record["results"]
    where = record["where"]
    parts = [
        f"{where['machine']}, {record['matmul_flops']['large'] / 1e9:.0f} GFLOP/s in large float32 matrix products, "
        f"{record['matmul_flops']['in blocks'] / 1e9:.0f} in those of a block; commit "
        f"{where['commit']}, jax {where['jax']}, Python {where['python']}, {where['device']}.",
        "## Against the goals\n\n" + markdown(goal_table(results)),
    ]
    titles = {
        "lengths": "T={}",
        "decode": "a step of decoding, {} tokens in the cache",
        "memory": "compiled, T={}",
    }
    for part, tables in results.items():
        if part == "short":
            parts.append("## Batch 16\n\n" + markdown(short_table(tables)))
            continue
        if part == "kinds":
            parts.append("## Kinds of calls\n\n" + markdown(kinds_table(tables)))
            continue
        for title, rows in tables.items():
            parts.append(
                f"## {titles.get(part, '{}').format(title)}\n\n" + markdown(ratio_table(rows))
            )
    return "\n\n".join(parts) + "\n"


def draw(by_length: dict[str, list[Row]]):
    """Draw the time of forward + backward, and the temporaries, against the length."""
    import matplotlib.pyplot as plt  # the tables need no extra package

    figure, (times, bytes_) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    lengths = sorted(map(int, by_length))
    names = dict.fromkeys(row["name"] for T in lengths for row in by_length[str(T)])
    for number, name in enumerate(names):
        rows = [of(by_length[str(T)], name) for T in lengths]
        ours = any(row is not None and row["temporary_bytes"] is not None for row in rows)
        for axes, field, scale in ((times, "step", 1e3), (bytes_, "temporary_bytes", 1e-6)):
            points = [
                (T, scale * row[field])
                for T, row in zip(lengths, rows, strict=True)
                if row is not None and row[field] is not None
            ]
            if points:
                axes.plot(
                    *zip(*points, strict=True), "-" if ours else "--", markersize=4,
                    marker="os^"[number // 10 % 3],
                    color=plt.get_cmap("tab10")(number % 10), label=name if axes is times else None,
                    linewidth=2.5 if name == "none" else 1.2,
                )  # fmt: skip
    for axes, label in ((times, "forward + backward, ms"), (bytes_, "temporaries, MB")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(lengths, list(map(str, lengths)))
        axes.set_xlabel("T")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("record", type=Path)
    parser.add_argument("--picture", type=Path, help="time and memory against the length")
    options = parser.parse_args(arguments)
    record = json.loads(options.record.read_text())
    if options.picture is not None:
        draw(record["results"]["lengths"]).savefig(options.picture, dpi=110)
    print(pages(record), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
