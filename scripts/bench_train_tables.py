"""Show the figures of scripts/bench_train.py as a picture and as the Markdown tables of docs/performance.md.

python scripts/bench_train_tables.py docs/steps.json [--picture docs/steps.png]
"""

import sys
from collections.abc import Sequence
from typing import Any

from harness import Cells, Row, markdown, row_of, show_record

OURS, TWIN = "relpos ", "relpos none"
TITLES = {
    "step": "a training step, {}",
    "generation": "a generation, batch {}",
    "depth": "a small step, {}",
}


def fastest_peer(rows: Sequence[Row]) -> float:
    """Return the tokens per second of the fastest other library, or of the first row if there is none."""
    peers = [row["tokens_per_second"] for row in rows if not row["name"].startswith(OURS)]
    return max(peers, default=rows[0]["tokens_per_second"])


def table(title: str, rows: Sequence[Row]) -> Cells:
    """Return ratios to the fastest peer and to our model without positions, then figures."""
    best, twin = fastest_peer(rows), row_of(rows, TWIN)
    found = [[title, "of the fastest peer", "of none", "tokens/s", "ms", "first call, s", "MB"]]
    for row in rows:
        rate, is_ours = row["tokens_per_second"], row["name"].startswith(OURS)
        found.append([
            row["name"], f"{rate / best:.2f}x",
            f"{twin['tokens_per_second'] / rate:.2f}x" if twin and is_ours else "",
            f"{rate:,.0f}", f"{1e3 * row['seconds']:,.0f} ±{1e3 * row['spread']:.0f}",
            f"{row['first_seconds']:.1f}", f"{row['bytes'] / 1e6:,.0f}",
        ])  # fmt: skip
    told = {1: any(not row["name"].startswith(OURS) for row in rows), 2: twin is not None}
    return [[cell for i, cell in enumerate(line) if told.get(i, True)] for line in found]


def pages(record: dict[str, Any]) -> str:
    """Return every table of a record; the column "of none" compares times, so that more is slower."""
    parts = [f"{record['machine']}, commit {record['commit']}."]
    for part, tables in record["tables"].items():
        for title, rows in tables.items():
            parts.append(markdown(table(TITLES[part].format(title), rows)))
    return "\n\n".join(parts) + "\n"


def draw(record: dict[str, Any]) -> Any:
    """Draw the tokens per second of each contestant, a panel for each table, the fastest peer at 1."""
    import matplotlib.pyplot as plt  # the tables need no extra package

    panels = [
        (TITLES[part].format(title), rows)
        for part, of_part in record["tables"].items()
        if part != "depth"  # there the first call counts
        for title, rows in of_part.items()
    ]
    columns = [panels[i::2] for i in range(2)]
    tall = max(sum(len(rows) + 2 for _, rows in column) for column in columns)
    figure: Any = plt.figure(figsize=(12, 0.24 * tall), layout="constrained")
    for part, column in zip(figure.subfigures(1, 2), columns, strict=True):
        heights = [len(rows) + 2 for _, rows in column]
        drawn = part.subplots(len(column), height_ratios=heights, squeeze=False)[:, 0]
        for axes, (title, rows) in zip(drawn, column, strict=True):
            names = [row["name"] for row in rows]
            rates = [row["tokens_per_second"] / fastest_peer(rows) for row in rows]
            errors = [
                row["spread"] / row["seconds"] / 2 * x for row, x in zip(rows, rates, strict=True)
            ]
            colors = ["#2a6fbb" if name.startswith(OURS) else "#b5b5b5" for name in names]
            axes.barh(names, rates, xerr=errors, color=colors, height=0.75, ecolor="#444444")
            axes.axvline(1, color="black", linewidth=0.8)
            axes.invert_yaxis()
            axes.set_title(title, fontsize=9, loc="left")
            axes.tick_params(labelsize=8)
            axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("tokens/s, the fastest other library at 1", fontsize=9)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    return show_record(__doc__, pages, draw, arguments)


if __name__ == "__main__":
    sys.exit(main())
