"""One layer of an encoder or decoder."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from relpos.attention import dropout
from relpos.encodings import Encoding
from relpos.nn.attention import RelativeAttention
from relpos.nn.cross_attention import CrossAttention
from relpos.nn.earlier import Earlier
from relpos.nn.linear import Linear
from relpos.nn.stack_config import StackConfig
from relpos.nn.turns import Turn


class Block(nnx.Module):
    """Self-attention, in a decoder of an encoder's output cross-attention, and an MLP, each with a way around it.

    The MLP is W_2 relu(W_1 x)^2 (So et al. 2021, arXiv:2109.08668).
    """

    def __init__(
        self,
        config: StackConfig,
        turn: Turn,
        encoding: Encoding | None,
        *,
        causal: bool,
        cross: CrossAttention | None = None,
        rngs: nnx.Rngs,
    ):
        D, dtype = config.features, jnp.dtype(config.dtype)
        M = 4 * D if config.mlp_features is None else config.mlp_features
        self.norm = config.norm
        self.attention_norm = nnx.RMSNorm(D, dtype=dtype, rngs=rngs)
        self.attention = RelativeAttention(
            config.num_heads,
            D,
            encoding=encoding,
            rngs=rngs,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            causal=causal,
            window=turn.window,
            scale=turn.scale,
            softcap=turn.softcap,
            dropout_rate=config.dropout_rate,
            dtype=dtype,
        )
        self.mlp_norm = nnx.RMSNorm(D, dtype=dtype, rngs=rngs)
        # What a sublayer adds starts small: the sum over all layers keeps the size of the input.
        scale = 0.5 / config.num_layers if config.norm == "pre" else 1.0
        small = jax.nn.initializers.variance_scaling(scale, "fan_in", "normal")
        self.mlp_in = Linear(D, M, dtype=dtype, rngs=rngs)
        self.mlp_out = Linear(M, D, init=small, dtype=dtype, rngs=rngs)
        self.cross = cross
        self.cross_norm = None if cross is None else nnx.RMSNorm(D, dtype=dtype, rngs=rngs)
        for attention in (self.attention, cross):
            if attention is not None:
                attention.out.kernel[...] = attention.out.kernel[...] * scale**0.5
        self.dropout_rate = config.dropout_rate

    def __call__(
        self,
        x_BTD,
        *,
        key=None,
        cache=None,
        earlier: Earlier | None = None,
        memory=None,
        places=None,
        **self_attention: Any,
    ):
        """Return x, and the new cache, or what is earlier for the segment to come; None without either."""
        keys: Any = [None] * 5 if key is None else jax.random.split(key, 5)
        h = self._before(x_BTD, self.attention_norm)
        before = None
        if earlier is not None:
            normed = self._before(jax.lax.stop_gradient(earlier.inputs), self.attention_norm)
            before = Earlier(normed, earlier.segments)
        out = self.attention(
            h, cache=cache, earlier=before, dropout_key=keys[0], deterministic=key is None,
            **self_attention,
        )  # fmt: skip
        out, grown = (out, None) if cache is None else out
        if earlier is not None:
            grown = earlier.then(x_BTD, self_attention.get("segments"))
        x_BTD = self._after(x_BTD, out, self.attention_norm, keys[1])
        if self.cross is not None:
            out = self.cross(
                self._before(x_BTD, self.cross_norm), memory=memory, positions=places,
                segments=self_attention.get("segments"),
                dropout_key=keys[2], deterministic=key is None,
            )  # fmt: skip
            x_BTD = self._after(x_BTD, out, self.cross_norm, keys[3])
        out = self._mlp(self._before(x_BTD, self.mlp_norm))
        return self._after(x_BTD, out, self.mlp_norm, keys[4]), grown

    def _mlp(self, h_BTD):
        """The MLP; a loop over layers keeps of it what goes into the activation, the wide rest is cheaper anew."""
        out = jax.checkpoint(lambda h_BTM: self.mlp_out(jax.nn.relu(h_BTM) ** 2), prevent_cse=False)
        return out(self.mlp_in(h_BTD))

    def _before(self, x, norm):
        return x if self.norm == "post" else norm(x)

    def _after(self, x, out, norm, key):
        x = x + dropped(out, self.dropout_rate, key)
        return norm(x) if self.norm == "post" else x


def dropped(x_BTD: Array, rate: float, key: Array | None) -> Array:
    """Drop activations by the hash that attention's weights are dropped by; without a key none.

    JAX's generator takes several times the operations for each of them.
    """
    if key is None or not rate:
        return x_BTD
    *rows, D = x_BTD.shape
    seed = dropout.seeds(key, ())
    kept = dropout.keep(seed, jnp.arange(math.prod(rows)), jnp.arange(D), rate)
    return jnp.where(kept.reshape(x_BTD.shape), x_BTD / (1 - rate), 0)
