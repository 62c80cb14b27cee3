"""One layer of an encoder or decoder."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos.attention import dropout
from relpos.encodings import Encoding
from relpos.nn.attention import RelativeAttention
from relpos.nn.cache import Cache
from relpos.nn.cross_attention import CrossAttention, Memory
from relpos.nn.earlier import Earlier
from relpos.nn.layer_pattern import LayerOptions
from relpos.nn.linear import Linear
from relpos.nn.mlp import KINDS
from relpos.nn.norms import make_norm
from relpos.nn.transformer_config import TransformerConfig


class At(NamedTuple):
    """Where the tokens of a call stand: `query_positions` for cross-attention, the rest as in `RelativeAttention`."""

    query_positions: Num[Array, "B T *axes"]
    segments: Int[Array, "B T"] | None = None
    positions: Num[Array, "B T *axes"] | None = None
    order: Num[Array, "B T"] | None = None


class Block(nnx.Module):
    """Self-attention, optional cross-attention and an MLP, each with a residual connection.

    `memory` is what cross-attention reads, None in a block without it; a random `key` switches dropout on.
    """

    def __init__(
        self,
        config: TransformerConfig,
        layer: LayerOptions,
        encoding: Encoding | None,
        *,
        causal: bool,
        cross_encoding: Encoding | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the layer; without a `cross_encoding` it has no cross-attention."""
        D, dtype = config.features, jnp.dtype(config.dtype)
        self.placement, self.parallel = config.norm_placement, config.parallel
        self.mlp_rate, self.output_rate = config.rate_of("mlp"), config.rate_of("output")
        options: dict[str, Any] = {
            "num_kv_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "scale": layer.scale,
            "softcap": layer.softcap,
            "qkv_bias": "qkv" in config.bias,
            "out_bias": "out" in config.bias,
            "qk_norm": config.qk_norm,
            "norm_epsilon": config.norm_epsilon,
            "dropout_rate": config.rate_of("attention"),
            "dtype": dtype,
        }
        if config.parallel and cross_encoding is not None:
            raise ValueError("parallel layers cannot have cross-attention: set parallel=False")
        self.cross = (
            None
            if cross_encoding is None
            else CrossAttention(config.num_heads, D, encoding=cross_encoding, rngs=rngs, **options)
        )
        self.attention_norm = make_norm(config, rngs)
        self.attention = RelativeAttention(
            config.num_heads, D, encoding=encoding, rngs=rngs, causal=causal, window=layer.window,
            **options,
        )  # fmt: skip
        self.mlp_norm = make_norm(config, rngs)
        # Pre-norm layers keep adding to x: small initial outputs preserve its scale through all layers.
        scale = 0.5 / config.num_layers if config.norm_placement == "pre" else 1.0
        small = jax.nn.initializers.variance_scaling(scale, "fan_in", "normal")
        self.mlp = config.mlp
        M = 4 * D if config.mlp_features is None else config.mlp_features
        into = 2 * M if KINDS[config.mlp].gated else M
        bias = "mlp" in config.bias
        self.mlp_in = Linear(D, into, bias=bias, dtype=dtype, rngs=rngs)
        self.mlp_out = Linear(M, D, bias=bias, init=small, dtype=dtype, rngs=rngs)
        self.cross_norm = None if self.cross is None else make_norm(config, rngs)
        for attention in (self.attention, self.cross):
            if attention is not None:
                attention.out.kernel[...] = attention.out.kernel[...] * scale**0.5

    def __call__(
        self, x_BTD: Float[Array, "B T D"], *, at: At, memory: Memory | None = None, key: Any = None
    ) -> Float[Array, "B T D"]:
        """Return the output of the layer."""
        keys = _keys(key)
        out = self.attention(
            self._before(x_BTD, self.attention_norm),
            positions=at.positions, order=at.order, segments=at.segments,
            dropout_key=keys[0], deterministic=key is None,
        )  # fmt: skip
        return self._rest(x_BTD, out, at, memory, keys)

    def decode(
        self, x_BTD: Float[Array, "B T D"], cache: Cache, *, at: At, memory: Memory | None = None
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Return the output for tokens after those in the cache, and the new cache."""
        out, cache = self.attention.decode(
            self._before(x_BTD, self.attention_norm), cache,
            positions=at.positions, order=at.order, segments=at.segments,
        )  # fmt: skip
        return self._rest(x_BTD, out, at, memory, _keys(None)), cache

    def read_on(
        self, x_BTD: Float[Array, "B T D"], earlier: Earlier, *, at: At, key: Any = None
    ) -> tuple[Float[Array, "B T D"], Earlier]:
        """Return the output for tokens after earlier ones, and the last inputs for the next segment."""
        keys = _keys(key)
        h = self._before(x_BTD, self.attention_norm)
        normed = self._before(jax.lax.stop_gradient(earlier.inputs), self.attention_norm)
        out = self.attention.read_on(
            h, Earlier(normed, earlier.segments), segments=at.segments,
            dropout_key=keys[0], deterministic=key is None,
        )  # fmt: skip
        return self._rest(x_BTD, out, at, None, keys), earlier.then(x_BTD, at.segments)

    def _rest(self, x_BTD, out_BTD, at: At, memory, keys):
        """Add the output of self-attention to x, then run the other sublayers."""
        read_BTD = x_BTD  # by a parallel MLP
        x_BTD = self._after(x_BTD, out_BTD, self.attention_norm, keys[1])
        if self.cross is not None:
            out_BTD = self.cross(
                self._before(x_BTD, self.cross_norm), memory=memory, positions=at.query_positions,
                segments=at.segments, dropout_key=keys[2], deterministic=keys[2] is None,
            )  # fmt: skip
            x_BTD = self._after(x_BTD, out_BTD, self.cross_norm, keys[3])
        read_BTD = read_BTD if self.parallel else x_BTD
        out_BTD = self._mlp(self._before(read_BTD, self.mlp_norm), keys[5])
        return self._after(x_BTD, out_BTD, self.mlp_norm, keys[4])

    def _mlp(self, h_BTD, key):
        """Return the output of the MLP; the backward pass keeps hidden values and recomputes activations."""

        def out(h_BTM):
            return self.mlp_out(dropped(KINDS[self.mlp].hidden(h_BTM), self.mlp_rate, key))

        return jax.checkpoint(out, prevent_cse=False)(self.mlp_in(h_BTD))

    def _before(self, x, norm):
        return x if self.placement == "post" else norm(x)

    def _after(self, x, out, norm, key):
        x = x + dropped(out, self.output_rate, key)
        return norm(x) if self.placement == "post" else x


def _keys(key: Array | None) -> Any:
    # The MLP's key is last, as it was added last: the other draws are unchanged.
    return [None] * 6 if key is None else jax.random.split(key, 6)


def dropped(x_BTD: Array, rate: float, key: Array | None) -> Array:
    """Drop activations by the hash that drops attention weights; without a key, drop none.

    JAX's generator would take several times as many operations.
    """
    if key is None or not rate:
        return x_BTD
    *rows, D = x_BTD.shape
    seed = dropout.seeds(key, ())
    kept = dropout.keep(seed, jnp.arange(math.prod(rows)), jnp.arange(D), rate)
    return jnp.where(kept.reshape(x_BTD.shape), x_BTD / (1 - rate), 0)
