"""Draws what every encoding does: where a query looks when all tokens are the same.

    python scripts/gallery.py [--output docs/gallery.png] [--length 128]

One panel for each scheme that is found, with its default options, untrained; one line for each of four heads: the
attention weight of the last query over the keys, by distance. What is not flat comes from positions alone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from matplotlib.figure import Figure
from rich.console import Console

from relpos import attention, encodings

HEADS, COLUMNS = 4, 4


def weights(name: str, length: int) -> np.ndarray:
    """The last query's attention weights [N, distance] over `length` tokens that are all the same."""
    features = HEADS * length
    encoding = encodings.create(
        name, num_heads=HEADS, head_dim=length, features=features, rngs=nnx.Rngs(0)
    )
    token = jax.random.normal(jax.random.key(0), (features,))
    x = encoding.embed(jnp.tile(token, (length, 1)), jnp.arange(length))
    heads = x.reshape(1, length, HEADS, length)
    # Unit vectors as values: the output is then the weights, and with them what a scheme adds to values.
    units = jnp.broadcast_to(jnp.eye(length)[None, :, None], heads.shape)
    token_features, _ = encodings.tokens(encoding, x[None])

    def attend(values):
        return attention(
            heads, heads, values, encoding=None if encoding.adds_to_input() else encoding, causal=True,
            q_features=token_features, k_features=token_features,
        )[0, -1]  # fmt: skip

    return np.asarray(attend(units) - attend(jnp.zeros_like(units)))[:, ::-1]


def draw(names: Sequence[str], length: int) -> Figure:
    """The panels of these schemes."""
    rows = -(-len(names) // COLUMNS)
    figure, panels = plt.subplots(
        rows,
        COLUMNS,
        figsize=(3 * COLUMNS, 2.2 * rows),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, name in zip(panels.flat, names, strict=False):
        for head, line in enumerate(weights(name, length)):
            panel.plot(
                line,
                color=plt.get_cmap("viridis")(head / HEADS),
                linewidth=1.2,
                label=f"head {head}",
            )
        panel.set_title(name, fontsize=10)
        panel.set_ylim(0, 1.05 * max(line.get_ydata().max() for line in panel.lines))
        panel.tick_params(labelsize=7)
    for panel in panels.flat[len(names) :]:
        panel.set_axis_off()
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", fontsize=8)
    figure.supxlabel("distance", fontsize=9)
    figure.supylabel("attention weight of the last query", fontsize=9)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws the picture; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", default="docs/gallery.png", type=Path)
    parser.add_argument("--length", default=128, type=int, help="tokens")
    options = parser.parse_args(arguments)
    if options.length < 2 or options.length % 2:
        parser.error(f"--length must be even and at least 2, got {options.length}")
    figure = draw(encodings.names(), options.length)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.output, dpi=110)
    Console().print(f"{options.output}: {len(encodings.names())} schemes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
