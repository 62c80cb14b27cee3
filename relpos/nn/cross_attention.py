"""Attention from one sequence to another, with any position encoding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.attention import attention, match_heads, transform_keys, transform_values
from relpos.attention.checks import check_encoding
from relpos.encodings import Encoding, bind
from relpos.nn import attention_helpers
from relpos.nn.cache import KeysAndValues, by_head
from relpos.nn.linear import Linear
from relpos.positions import contiguous, within_segments


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory(KeysAndValues):
    """The keys and values of the other sequence for one layer, computed once.

    Attributes:
      keys: [K, B, S, H], as the encoding's `key` returns them (rotated).
      values: [K, B, S, H].
      positions: [B, S].
      segments: ids, 0 is padding, [B, S].
    """

    positions: Int[Array, "B S"]
    segments: Int[Array, "B S"]


class CrossAttention(nnx.Module):
    """Attention of N query heads to a memory; d = position of the query - position in the memory.

    out = concat_n(attention(x W_q, y W_k, y W_v)_n) W_o.

    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        *,
        encoding: Encoding | None = None,
        rngs: nnx.Rngs,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: bool = False,
        norm_epsilon: float = 1e-6,
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
    ):
        """Make the projections, for two sequences of width D.

        `encoding` is made by `relpos.encodings.create`; None: no positions. Arguments from `num_kv_heads` to `dtype`
        are as in `RelativeAttention`.

        Raises:
          ValueError: sizes do not divide, or the encoding reads the tokens along one sequence.
        """
        num_kv_heads, head_dim = attention_helpers.check_heads(
            num_heads, in_features, num_kv_heads, head_dim
        )
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.dropout_rate, self.dtype = dropout_rate, dtype
        self.scale, self.softcap = scale, softcap
        if encoding is not None:
            check_encoding(
                encoding, num_heads, num_kv_heads, head_dim, causal=False, may_be_unbound=True
            )
            if encoding.needs_tokens:
                raise ValueError(
                    f"{type(encoding).__name__} reads the tokens along one sequence: it is undefined between two"
                )
        self.encoding = encoding
        F, D, key_value = num_heads * head_dim, in_features, 2 * num_kv_heads * head_dim
        self.query = Linear(D, F, bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.key_value = Linear(D, key_value, bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.out = Linear(F, D, bias=out_bias, dtype=dtype, rngs=rngs)
        self.q_norm, self.k_norm = attention_helpers.head_norms(
            qk_norm, head_dim, norm_epsilon, dtype, rngs
        )

    def _bound(self) -> Encoding:
        """Return the encoding, bound to the layer's projections."""
        encoding = self.encoding or attention_helpers.no_positions()
        N, K, H = self.num_heads, self.num_kv_heads, self.head_dim
        query_DNH = self.query.kernel[...].reshape(-1, N, H)
        key_DKH = self.key_value.kernel[...].reshape(-1, 2 * K, H)[:, :K]
        return bind(encoding, query_DNH, key_DKH)

    def remember(
        self, y_BSD: Float[Array, "B S D"], segments: Int[Array, "B S"] | None = None
    ) -> Memory:
        """Return the memory of a sequence y."""
        encoding = self._bound()
        attention_helpers.check_input(y_BSD)
        B, S = y_BSD.shape[:2]
        K = self.num_kv_heads
        kv = self.key_value(y_BSD).reshape(B, S, 2 * K, self.head_dim)
        if segments is None:
            segments = jnp.ones((B, S), jnp.int32)
            positions = jnp.broadcast_to(contiguous(S), (B, S))
        else:
            positions = within_segments(segments)
        k = transform_keys(encoding, self.k_norm(kv[:, :, :K]), positions, self.num_heads)
        v = transform_values(encoding, kv[:, :, K:], positions, self.num_heads)
        k, v = match_heads(k, v)
        return Memory(by_head(k), by_head(v), positions, segments)

    def __call__(
        self,
        x_RTD: Float[Array, "R T D"],
        memory: Memory,
        *,
        positions: Int[Array, "R T"],
        segments: Int[Array, "R T"] | None = None,
        dropout_key: Array | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, "R T D"]:
        """Attend from x to a memory.

        Args:
          x_RTD: the input. R is a multiple of the B rows of the memory, each of which serves R / B consecutive rows
            of x, its beams.
          memory: what `remember` returns.
          positions: those of the queries.
          segments: ids, [R, T]: a query sees the memory of its own segment; None: all of x is in segment 1.
          dropout_key: as in `RelativeAttention`.
          deterministic: as in `RelativeAttention`.

        Raises:
          ValueError: R is not a multiple of B, or the input does not have three axes.
        """
        attention_helpers.check_input(x_RTD)
        encoding = self._bound()
        (R, T), B = x_RTD.shape[:2], len(memory.segments)
        if R % B:
            raise ValueError(f"{R} rows of queries do not divide among {B} rows of memory")
        rows = R // B * T  # queries that read the same row of memory
        q = self.query(x_RTD).reshape(B, rows, self.num_heads, self.head_dim)
        options = attention_helpers.dropout_options(self.dropout_rate, dropout_key, deterministic)
        segments = jnp.ones((R, T), jnp.int32) if segments is None else segments
        out = attention(
            self.q_norm(q), memory.key, memory.value, encoding=encoding, keys_ready=True,
            q_positions=positions.reshape(B, rows), k_positions=memory.positions,
            q_segments=segments.reshape(B, rows), k_segments=memory.segments,
            scale=self.scale, softcap=self.softcap, **options,
        )  # fmt: skip
        return self.out(out.reshape(R, T, self.num_heads * self.head_dim))
