"""Draw where a query looks when all tokens are the same, for every scheme.

    python scripts/gallery.py [--output docs/gallery.png] [--length 128]
    python scripts/gallery.py --schemes [NAME ...] [--folder docs/encodings] [--steps 300]

The first command draws a panel for each scheme, untrained and with default options. Each panel has a line for each of
four heads: the attention weight that the last query gives to the keys, by distance. Only positions can make it differ
from a flat line.

With `--schemes`, each scheme, or each named one, gets a picture of its own: the heads of a small decoder's two
layers, untrained and after a short training, at distances up to four times the trained length.
"""

import dataclasses
import functools
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from harness import Parser
from jax import Array
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from rich.progress import track

from relpos import attention, encodings
from relpos.encodings import Encoding
from relpos.nn import Decoder, TransformerConfig
from relpos.nn.block import At
from relpos.nn.layer_encodings import is_shared_by_layers

HEADS, COLUMNS = 4, 4
SHADES = "Blues", "Oranges"  # for the heads of each layer
LEAST = 1e-5  # the smallest weight that a scheme's own picture shows


def weights(name: str, length: int) -> np.ndarray:
    """Return the last query's attention weights [N, distance] over `length` equal tokens."""
    encoding = encodings.create(name, num_heads=HEADS, head_dim=length, rngs=nnx.Rngs(0))
    token = jax.random.normal(jax.random.key(0), (HEADS * length,))
    x = encoding.embed(jnp.tile(token, (length, 1)), jnp.arange(length))
    heads = x.reshape(1, length, HEADS, length)
    used = None if encoding.adds_to_input() else encoding
    return np.asarray(of_last(used, x[None], heads, heads))


def of_last(encoding: Encoding | None, x_1TD: Array, q_1TNH: Array, k_1TNH: Array) -> Array:
    """Return the last query's attention weights [N, distance], causal; H must divide T."""
    _, T, N, H = q_1TNH.shape
    # Unit vectors as values, H of them in each row, make the output the weights, plus what a scheme adds to values. A
    # last row, whose values are zero, has only the latter, which is then subtracted.
    units = jnp.eye(T).reshape(T, T // H, H).swapaxes(0, 1)
    values = jnp.concatenate([units, jnp.zeros((1, T, H))])
    values = jnp.broadcast_to(values[:, :, None], (len(values), T, N, H))
    tokens, _ = (None, None) if encoding is None else encodings.tokens(encoding, x_1TD)
    rows = lambda x: jnp.broadcast_to(x, (len(values), *x.shape[1:]))  # noqa: E731
    features = jax.tree.map(rows, tokens)
    out = attention(
        rows(q_1TNH), rows(k_1TNH), values, encoding=encoding, causal=True,
        q_features=features, k_features=features,
    )[:, -1]  # fmt: skip
    return jnp.moveaxis(out[:-1] - out[-1:], 1, 0).reshape(N, T)[:, ::-1]


def draw(names: Sequence[str], length: int) -> Figure:
    """Draw a panel for each of these schemes."""
    rows = -(-len(names) // COLUMNS)
    figure = plt.figure(figsize=(3 * COLUMNS, 2.2 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, sharex=True, squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for head, line in enumerate(weights(name, length)):
            color = plt.get_cmap("viridis")(head / HEADS)
            panel.plot(line, color=color, linewidth=1.2, label=f"head {head}")
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


@dataclasses.dataclass(frozen=True)
class Training:
    """A short training: predict, at each token, the one `lag` tokens before it.

    Attributes:
      length: tokens of a row.
      lag: how far back the answer is.
      steps: steps of Adam, each on new rows.
      batch: rows per step.
      vocabulary: the number of different tokens; rows are random.
      learning_rate: the peak, after a warm-up and before a cosine decay.
      times: the longest distance drawn and tested, in multiples of the trained length.
    """

    length: int = 64
    lag: int = 5
    steps: int = 300
    batch: int = 16
    vocabulary: int = 16
    learning_rate: float = 0.003
    times: int = 4

    def decoder(self, name: str) -> Decoder:
        """Return the untrained model of two layers."""
        sizes: Any = {"num_layers": 2, "features": 16 * HEADS, "num_heads": HEADS}
        config = TransformerConfig(encodings=(name,), **sizes)
        return Decoder(config, vocab_size=self.vocabulary, rngs=nnx.Rngs(0))

    def rows(self, key: Array, count: int, length: int) -> Array:
        return jax.random.randint(key, (count, length), 0, self.vocabulary)

    def trained(self, model: Decoder) -> Decoder:
        """Return a trained copy of the model."""
        model = nnx.merge(*nnx.split(model))
        rate = optax.schedules.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.steps // 10, self.steps
        )
        tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate))
        graphdef, state = nnx.split((model, nnx.Optimizer(model, tx, wrt=nnx.Param)))

        def step(state, key):
            model, optimizer = nnx.merge(graphdef, state)
            tokens = self.rows(key, self.batch, self.length)
            optimizer.update(model, nnx.grad(self.loss)(model, tokens))
            return nnx.state((model, optimizer)), None

        keys = jax.random.split(jax.random.key(1), self.steps)
        state, _ = jax.jit(lambda state, keys: jax.lax.scan(step, state, keys))(state, keys)
        return nnx.merge(graphdef, state)[0]

    def loss(self, model: Decoder, tokens: Array) -> Array:
        logits, wanted = model(tokens)[:, self.lag :], tokens[:, : -self.lag]
        return optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()

    def right(self, model: Decoder) -> tuple[float, float]:
        """Return the share of correct answers within the trained length and beyond it."""
        tokens = self.rows(jax.random.key(2), 8, self.times * self.length)
        graphdef, state = nnx.split(model)
        logits = jax.jit(lambda state, tokens: nnx.merge(graphdef, state)(tokens))(state, tokens)
        right = logits[:, self.lag :].argmax(-1) == tokens[:, : -self.lag]
        within = self.length - self.lag
        return float(right[:, :within].mean()), float(right[:, within:].mean())


def of_layers(model: Decoder, length: int) -> list[np.ndarray]:
    """Return the attention weights [N, distance] of each layer for the last of `length` equal tokens."""
    return [np.asarray(x) for x in _of_layers(*nnx.split(model), length)]


@functools.partial(jax.jit, static_argnums=(0, 2))
def _of_layers(graphdef: Any, state: Any, length: int) -> list[Array]:
    model = nnx.merge(graphdef, state)
    x_1TD = model.embed(jnp.zeros((1, length), jnp.int32))
    for encoding in model.stack.input_encodings:
        x_1TD = encoding.embed(x_1TD[0], jnp.arange(length))[None]
    parts = nnx.split(model.stack.blocks[0], is_shared_by_layers, ...)
    stacked, shared, own = parts  # type: ignore[misc]
    weights = []
    for number in range(model.config.num_layers):
        block = nnx.merge(stacked, shared, jax.tree.map(lambda x, n=number: x[n], own))
        h_1TD = block.attention_norm(x_1TD)
        q, k, _ = jnp.split(block.attention.qkv(h_1TD).reshape(1, length, 3 * HEADS, -1), 3, 2)
        weights.append(of_last(block.attention.encoding, h_1TD, q, k))
        x_1TD = block(x_1TD, at=At(jnp.arange(length)[None]))
    return weights


def draw_scheme(name: str, training: Training) -> Figure:
    """Draw one scheme: untrained on the left, trained on the right."""
    untrained = training.decoder(name)
    trained = training.trained(untrained)
    within, beyond = training.right(trained)
    told = f"after {training.steps} steps: {within:.0%} right, {beyond:.0%} beyond"
    models = {f"{name}, untrained": untrained, told: trained}
    longest = training.times * training.length
    figure, panels = plt.subplots(1, 2, figsize=(7, 2), sharey=True, layout="constrained")
    for panel, (title, model) in zip(panels, models.items(), strict=True):
        for number, layer in enumerate(of_layers(model, longest)):
            for head, line in enumerate(layer):
                color = plt.get_cmap(SHADES[number])(0.45 + 0.5 * head / HEADS)
                label = f"layer {number + 1}" if head == HEADS - 1 else None
                panel.plot(np.maximum(line, LEAST), color=color, linewidth=0.9, label=label)
        panel.axvline(training.length, color="black", linewidth=0.8, linestyle="--")
        panel.axvspan(training.length, longest, color="0.93")
        panel.set_title(title, fontsize=8)
        panel.set_xscale("function", functions=(np.sqrt, np.square))
        panel.set_xlim(0, longest)
        panel.set_xticks([0, training.lag, training.length // 4, training.length, longest])
        panel.set_yscale("log")
        panel.set_ylim(LEAST, 1.5)
        panel.tick_params(labelsize=7)
    panels[0].legend(loc="upper right", fontsize=6, frameon=False)
    figure.supxlabel("distance", fontsize=8)
    figure.supylabel("weight", fontsize=8)
    return figure


def save_small(figure: Figure, path: Path) -> None:
    """Write a picture with a small palette."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=100)
    plt.close(figure)
    Image.open(buffer).convert("RGB").quantize(32).save(path, optimize=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the pictures; return the process's exit status."""
    parser = Parser(__doc__)
    parser.add_argument("--output", default="docs/gallery.png", type=Path)
    parser.add_argument("--length", default=128, type=int, help="tokens")
    parser.add_argument("--schemes", nargs="*", metavar="NAME", help="a picture for each, or all")
    parser.add_argument("--folder", default="docs/encodings", type=Path, help="of these pictures")
    parser.add_argument("--steps", default=Training.steps, type=int, help="of their training")
    options = parser.parse_args(arguments)
    if options.length < 2 or options.length % 2:
        parser.error(f"--length must be even and at least 2, got {options.length}")
    if options.steps < 10:
        parser.error(f"--steps must be at least 10, got {options.steps}")
    if options.schemes is None:
        figure = draw(encodings.names(), options.length)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(options.output, dpi=110)
        Console().print(f"{options.output}: {len(encodings.names())} schemes")
        return 0
    names = options.schemes or encodings.names()
    try:
        for name in names:
            encodings.scheme(name)  # raise for an unknown one before drawing
    except ValueError as error:
        parser.error(str(error))
    options.folder.mkdir(parents=True, exist_ok=True)
    training = Training(steps=options.steps)
    for name in track(names, "schemes", console=Console(stderr=True)):
        save_small(draw_scheme(name, training), options.folder / f"{name}.png")
    Console().print(f"{options.folder}: {len(names)} schemes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
