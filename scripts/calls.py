"""The attention calls that scripts time and check: sizes and rules, random arguments, and a scheme's attention."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import relpos
from relpos import encodings
from relpos.positions import PADDING, consecutive

HEADS, HEAD_DIM = 8, 64


@dataclasses.dataclass(frozen=True)
class Call:
    """One attention call.

    Attributes:
      B, T, S, N, K, H: the sizes.
      dtype: of queries, keys and values.
      causal, window, softcap, dropout_rate: as of `relpos.attention`.
      packed: the length of the documents packed into a row, whose rest is padding; 0: one document.
      scattered: whether positions are not consecutive.
      starts: the starts of the queries' and keys' consecutive positions; None: no positions are passed.
    """

    B: int = 1
    T: int = 4096
    S: int = 4096
    N: int = HEADS
    K: int = HEADS
    H: int = HEAD_DIM
    dtype: str = "float32"
    causal: bool = True
    window: int | tuple[int, int] | None = None
    softcap: float | None = None
    dropout_rate: float = 0.0
    packed: int = 0
    scattered: bool = False
    starts: tuple[int, int] | None = None

    def rules(self) -> dict[str, Any]:
        """Return the arguments of `relpos.attention` besides queries, keys, values and the encoding."""
        found: dict[str, Any] = {
            "causal": self.causal, "window": self.window, "softcap": self.softcap,
        }  # fmt: skip
        if self.dropout_rate:
            found |= {"dropout_rate": self.dropout_rate, "dropout_key": jax.random.key(5)}
        if self.packed:
            number, rest = np.arange(self.T) // self.packed, self.T % self.packed
            ids = np.where(np.arange(self.T) < self.T - rest, number + 1, PADDING)
            found |= dict.fromkeys(("q_segments", "k_segments"), jnp.asarray(ids))
        if self.scattered:
            places = np.sort(np.random.default_rng(0).choice(4 * self.T, self.T, False))
            found |= dict.fromkeys(("q_positions", "k_positions"), jnp.asarray(places))
        if self.starts is not None:
            q_start, k_start = self.starts
            found |= {"q_positions": consecutive(q_start), "k_positions": consecutive(k_start)}
        return found


def attention_of(
    name: str, call: Call, implementation: Any = "auto", **options: Any
) -> tuple[Callable, Any, Any]:
    """Return a scheme's attention, a function of (fixed, trained, q, k, v, x), and its parameters.

    A training step differentiates only what is trained: not ALiBi's slopes. A scheme that adds to the model's input
    leaves attention without positions.
    """
    sizes: dict[str, Any] = {
        "num_heads": call.N, "num_kv_heads": call.K, "head_dim": call.H, "features": call.N * call.H
    }  # fmt: skip
    encoding = encodings.create(name, rngs=nnx.Rngs(0), **sizes, **options)
    if encoding.adds_to_input():
        encoding = encodings.create("none", rngs=nnx.Rngs(0), **sizes)
    graphdef, trained, fixed = nnx.split(encoding, nnx.Param, ...)  # type: ignore[misc]
    rules = call.rules()

    def attend(fixed, trained, q, k, v, x):
        made = nnx.merge(graphdef, trained, fixed)
        found, _ = encodings.tokens(made, x)
        return relpos.attention(
            q, k, v, encoding=made, implementation=implementation,
            q_features=jax.tree.map(lambda f: f[:, : call.T], found),
            k_features=jax.tree.map(lambda f: f[:, : call.S], found), **rules,
        )  # fmt: skip

    return attend, fixed, trained


def draw(call: Call) -> tuple[Any, ...]:
    """Return random queries, keys, values and inputs of the layer, and a weight for the output."""
    drawn = np.random.default_rng(0)
    queries, keys = (call.B, call.T, call.N, call.H), (call.B, call.S, call.K, call.H)
    inputs = (call.B, max(call.T, call.S), call.N * call.H)
    return tuple(
        jnp.asarray(drawn.standard_normal(shape), call.dtype)
        for shape in (queries, keys, keys, inputs, queries)
    )
