"""Show the figures of scripts/bench_attention.py as a picture and as the Markdown tables of docs/performance.md.

python scripts/bench_tables.py docs/performance.json [--picture FILE]
"""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness import Cells, Row, markdown, row_of, show_record

Tables = dict[str, dict[str, list[Row]]]  # part -> title -> rows
SDPA, SDPA_BIAS = "PyTorch SDPA, no positions", "PyTorch SDPA, T5 bias tensor"
FLEX = "PyTorch FlexAttention, T5"


class Goal(NamedTuple):
    """One ratio of the goal table.

    Attributes:
      names: the contestants to which it applies; (): all encodings.
      field: the field of their rows.
      against: the contestant whose row is the denominator; "same": the contestant of the same name in
        `base`; "": the goal is not a ratio.
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
    *(
        Goal(
            f"T={T}, batch 16, against the dense path", (), "step", "same", 1,
            ("blockwise", T), ("dense", T),
        )
        for T in ("256", "512")
    ),
)  # fmt: skip


def ratios(results: Tables, goal: Goal) -> dict[str, float]:
    """Return the figure of each measured contestant."""
    rows, base = (
        results.get(part, {}).get(title, [])
        for part, title in (goal.table, goal.base or goal.table)
    )
    found = {}
    for row in rows:
        name, value = row["name"], row[goal.field]
        divisor: Any = 1
        if goal.against:
            other = row_of(base, name if goal.against == "same" else goal.against)
            divisor = other and other[goal.field]
        if (name in goal.names or not goal.names) and None not in (value, divisor):
            found[name] = value / divisor
    return found


def goal_table(results: Tables) -> Cells:
    """Return a row for each goal: what, goal, measured, whether it is met."""
    found = [["", "goal", "measured", ""]]
    for goal in GOALS:
        measured = ratios(results | by_path(results.get("short", {})), goal)
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
        missed = ", ".join(f"`{name}`" for name, value in measured.items() if value > goal.least)
        verdict = f"missed by {missed}" if missed else "met"
        found.append([what, f"{goal.least}{unit}", shown, verdict])
    return found


def by_path(by_length: dict[str, list[Row]]) -> Tables:
    """Split the tables of batch 16 by path, dense and blockwise."""
    found: Tables = {"dense": {}, "blockwise": {}}
    for T, rows in by_length.items():
        for row in rows:
            name, path = row["name"].split(", ")
            found[path].setdefault(T, []).append(row | {"name": name})
    return found


def short_table(by_length: dict[str, list[Row]]) -> Cells:
    """Compare the blockwise path with the dense one, a row for each length and scheme."""
    found = [["blockwise against dense", "forward", "forward + backward", "temporaries"]]
    paths, fields = by_path(by_length), ("forward", "step", "temporary_bytes")
    for T, rows in paths["blockwise"].items():
        dense = {row["name"]: row for row in paths["dense"][T]}
        for row in rows:
            base = dense[row["name"]]
            told = (f"{row[field] / base[field]:.2f}x" for field in fields)
            found.append([f"{row['name']}, T={T}", *told])
    return found


def kinds_table(by_kind: dict[str, list[Row]]) -> Cells:
    """Compare forward + backward with `none` on the same kind of call, a row for each scheme."""

    def cell(name, rows):
        row, none = row_of(rows, name), rows[0]
        if row is none:
            return f"{1e3 * row['step']:.0f} ms"
        return f"{row['step'] / none['step']:.2f}x" if row else ""

    names = dict.fromkeys(row["name"] for rows in by_kind.values() for row in rows)
    body = [[name, *(cell(name, rows) for rows in by_kind.values())] for name in names]
    return [["", *by_kind], *body]


def ratio_table(rows: Sequence[Row]) -> Cells:
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


def pages(record: dict[str, Any]) -> str:
    """Return every table of a record."""
    where, rates = record["where"], record["matmul_flops"]
    about = (
        f"{where['machine']}, {rates['large'] / 1e9:.0f} GFLOP/s in large float32 matrix products, "
        f"{rates['in blocks'] / 1e9:.0f} in those of a block; commit "
        f"{where['commit']}, jax {where['jax']}, Python {where['python']}, {where['device']}."
    )
    titles = {
        "lengths": "T={}",
        "decode": "a step of decoding, {} tokens in the cache",
        "memory": "compiled, T={}",
    }
    found = {"Against the goals": goal_table(record["results"])}
    for part, tables in record["results"].items():
        if part == "short":
            found["Batch 16"] = short_table(tables)
        elif part == "kinds":
            found["Kinds of calls"] = kinds_table(tables)
        else:
            for title, rows in tables.items():
                found[titles.get(part, "{}").format(title)] = ratio_table(rows)
    sections = (f"## {title}\n\n{markdown(cells)}" for title, cells in found.items())
    return "\n\n".join([about, *sections]) + "\n"


def draw(record: dict[str, Any]) -> Any:
    """Draw the time of forward + backward, and the temporaries, against the length."""
    import matplotlib.pyplot as plt  # the tables need no extra package

    by_length = {int(T): rows for T, rows in record["results"]["lengths"].items()}
    lengths = sorted(by_length)
    names = dict.fromkeys(row["name"] for T in lengths for row in by_length[T])
    figure, (times, bytes_) = plt.subplots(1, 2, figsize=(13, 5), layout="constrained")
    for number, name in enumerate(names):
        rows = {T: row for T in lengths if (row := row_of(by_length[T], name))}
        ours = any(row["temporary_bytes"] is not None for row in rows.values())
        for axes, field, scale in ((times, "step", 1e3), (bytes_, "temporary_bytes", 1e-6)):
            points = [(T, scale * row[field]) for T, row in rows.items() if row[field] is not None]
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
    return show_record(__doc__, pages, draw, arguments)


if __name__ == "__main__":
    sys.exit(main())
