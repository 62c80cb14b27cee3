"""Plots of a run."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from relpos.errors import UserError
from relpos.runs.metrics import by_length, measure_of, table


def figure(width: float, height: float) -> Any:
    """Return an empty matplotlib Figure without a window, of a size in inches.

    Raises:
      UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError("pictures need matplotlib: pip install 'relpos[plots]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def draw(records: Sequence[Mapping[str, Any]], trained_length: int, title: str) -> Any:
    """Plot the loss by step and, if the test has several lengths, the test metric by length."""
    metrics = table(records)
    name = measure_of([record for record in records if record.get("split") == "test"])
    tested = by_length(records, name) if name else {}
    wide = len(tested) > 1
    drawn = figure(9 if wide else 5, 3.2)
    panels = drawn.subplots(1, 2 if wide else 1, squeeze=False)[0]
    for split in ("train", "validation"):
        if "loss" in (columns := metrics.get(split, {})):
            mark = "o" if split == "validation" else ""
            panels[0].plot(columns["step"], columns["loss"], label=split, marker=mark, markersize=3)
    panels[0].set(xlabel="step", ylabel="loss", title=title)
    if panels[0].lines:
        panels[0].legend(frameon=False)
    if wide:
        panels[1].plot(list(tested), list(tested.values()), marker="o")
        show_lengths(panels[1], tested)
        mark_trained(panels[1], [trained_length])
        panels[1].set(ylabel=f"test {name}")
    return drawn


def show_lengths(panel: Any, lengths: Iterable[int]) -> None:
    """Make the horizontal axis logarithmic, with a tick at each length."""
    panel.set_xscale("log", base=2)
    ticks = sorted(set(lengths))
    panel.set_xticks(ticks, [str(tick) for tick in ticks])
    panel.minorticks_off()
    panel.set_xlabel("length")


def mark_trained(panel: Any, lengths: Iterable[int], color: str = "gray") -> None:
    """Mark the trained lengths, with a note below the axis."""
    for length in lengths:
        panel.axvline(length, color=color, linewidth=1, linestyle=":")
    panel.xaxis.label.set_text(f"{panel.get_xlabel()} (dotted: trained)")
