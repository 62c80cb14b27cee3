"""Multi-head attention with any position encoding."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos import encodings
from relpos import positions as positions_lib
from relpos.attention import attention, match_heads, tabulate, transform_keys, transform_values
from relpos.attention.checks import check_encoding, check_positions, checked_number
from relpos.encodings import Encoding
from relpos.nn import attention_helpers, moving_keys
from relpos.nn.cache import Cache, by_head
from relpos.nn.earlier import Earlier, check_earlier
from relpos.nn.linear import Linear


class RelativeAttention(nnx.Module):
    """Self-attention of N query heads and K key/value heads, with a position encoding.

    out = concat_n(attention(x W_q, x W_k, x W_v)_n) W_o;  see `relpos.attention` for the equation of one head.

    The methods that attend share these arguments:

      x_BTD: the input.
      positions: integers or reals, or with axes, [B, T, axes]; None: each token's index in its segment, after the
        tokens in the cache.
      order: what causality and windows use; None: the positions, or the index in the row where positions have axes.
      segments: ids of packed documents, 0 is padding; None: one document. With a cache, all ids but 0 are one document.
      dropout_key: a random key, which switches dropout on.
      deterministic: True: no dropout, even with a key; False: a dropout rate needs a key; None: drop if there is a key,
        and log once if there is none.
    """

    def __init__(
        self,
        num_heads: int,
        in_features: int,
        *,
        encoding: str | type[Encoding] | Encoding | None = None,
        rngs: nnx.Rngs,
        num_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        window: int | tuple[int | None, int | None] | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        qkv_bias: bool = False,
        out_bias: bool = False,
        qk_norm: bool = False,
        norm_epsilon: float = 1e-6,
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
    ):
        """Make the projections and, from a name, the encoding.

        Args:
          num_heads: N, the number of query heads.
          in_features: D, the width of input and output.
          encoding: a scheme's name or class (with its default options), an encoding made by
            `relpos.encodings.create`, or None: no positions.
          rngs: for the initial parameters.
          num_kv_heads: K, a divisor of N; None: N.
          head_dim: H; None: D / N.
          causal: whether a token sees only itself and earlier tokens.
          window: see only keys with |d| < window; or a pair (past, future), see `relpos.positions.Window`.
          scale: the factor of the dot products; None: the encoding's own, 1 / sqrt(H) if it has none. T5 uses 1.
          softcap: logits become softcap * tanh(logits / softcap).
          qkv_bias: whether the projections to queries, keys and values add a bias.
          out_bias: whether the output projection adds a bias.
          qk_norm: whether an RMS norm over H follows the projections to queries and keys.
          norm_epsilon: what this norm adds to the mean square.
          dropout_rate: for the attention weights.
          dtype: the type to compute in; parameters are float32.

        Raises:
          ValueError: sizes do not divide, or the encoding is unknown.
        """
        num_kv_heads, head_dim = attention_helpers.check_heads(
            num_heads, in_features, num_kv_heads, head_dim
        )
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.causal, self.dropout_rate = causal, dropout_rate
        self.window = positions_lib.Window.of(window)
        self.scale, self.softcap = scale, softcap
        self.dtype = dtype
        if isinstance(encoding, str | type):
            encoding = encodings.create(
                encoding,
                num_heads=num_heads,
                head_dim=head_dim,
                num_kv_heads=num_kv_heads,
                features=in_features,
                rngs=rngs,
            )
        if encoding is not None:
            check_encoding(encoding, num_heads, num_kv_heads, head_dim, causal, may_be_unbound=True)
        self.encoding = encoding
        D, F = in_features, num_heads * head_dim
        self.qkv = Linear(D, F + 2 * num_kv_heads * head_dim, bias=qkv_bias, dtype=dtype, rngs=rngs)
        self.out = Linear(F, D, bias=out_bias, dtype=dtype, rngs=rngs)
        self.q_norm, self.k_norm = attention_helpers.head_norms(
            qk_norm, head_dim, norm_epsilon, dtype, rngs
        )

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        *,
        positions: Num[Array, "B T *axes"] | positions_lib.Consecutive | None = None,
        order: Num[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        dropout_key: Array | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, "B T D"]:
        """Attend within x."""
        encoding = self._bound()
        q, k, v = self._project(x_BTD)
        valid = None if segments is None else segments != 0
        features, _ = encodings.tokens(
            encoding, x_BTD, valid, segments=segments,
            positions=_in_one_number(positions, order, x_BTD.shape[:2]),
        )  # fmt: skip
        out = attention(
            q, k, v, encoding=encoding, q_features=features, k_features=features,
            q_positions=positions, k_positions=positions, q_order=order, k_order=order,
            q_segments=segments, k_segments=segments, **self._options,
            **attention_helpers.dropout_options(self.dropout_rate, dropout_key, deterministic),
        )  # fmt: skip
        return self._join(out)

    def decode(
        self,
        x_BTD: Float[Array, "B T D"],
        cache: Cache,
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Append x to a cache and attend to all tokens in it, without dropout.

        `cache` comes from `init_cache` or the previous call.

        Returns:
          The output and the new cache. If a row has more tokens than its cache can hold, all its outputs are NaN.
        """
        encoding = self._bound()
        q, k, v = self._project(x_BTD)
        if cache.length.shape != x_BTD.shape[:1]:
            raise ValueError(
                f"the cache has {cache.length.shape[0]} rows, the input has {x_BTD.shape[0]}"
            )
        valid = jnp.ones(x_BTD.shape[:2], bool) if segments is None else segments != 0
        at = cache.positions_and_order(valid, positions, order)
        check_positions(encoding, at[0])
        features, state = encodings.tokens(encoding, x_BTD, valid, cache.state)
        k, v = self._ready(encoding, k, v, at[0], features)
        attend = functools.partial(self._attend_grown, segments is None, q, v, state, valid, at)
        if not moving_keys.come_along(encoding):
            out, grown = attend(encoding, features, k, cache)
            return self._join(out), grown
        past, now = moving_keys.moved(encoding, cache.key, k, features)
        behind = dataclasses.replace(cache, keys=by_head(past))
        if x_BTD.shape[1] == 1:
            out, grown = attend(*moving_keys.standing(encoding, features), k, behind)
        else:
            walked = moving_keys.walked_past(encoding, cache, features)
            out, _ = attend(encoding, features, k, walked)
            kept = moving_keys.kept(encoding, features)
            grown = behind.append(now, v, kept, state, valid, *at)
        return self._join(out), grown

    def read_on(
        self,
        x_BTD: Float[Array, "B T D"],
        earlier: Earlier | Float[Array, "B M D"],
        *,
        segments: Int[Array, "B T"] | None = None,
        dropout_key: Array | None = None,
        deterministic: bool | None = None,
    ) -> Float[Array, "B T D"]:
        """Attend to x and to the tokens before it, as in Transformer-XL; positions continue from theirs.

        `earlier` holds the layer's inputs at the M tokens before x; their keys and values are recomputed. An array gets
        no gradient; an `Earlier` is used unchanged.
        """
        encoding = self._bound()
        q, k, v = self._project(x_BTD)
        earlier = earlier if isinstance(earlier, Earlier) else Earlier.of(earlier)
        check_earlier(earlier, x_BTD)
        M, ids_BS = earlier.length, earlier.ids_with(x_BTD.shape[:2], segments)
        before = self._split(self.qkv(earlier.inputs, self.num_heads * self.head_dim), 0)[1:]
        k, v = (jnp.concatenate([a, b], 1) for a, b in zip(before, (k, v), strict=True))
        k_features, _ = encodings.tokens(
            encoding, earlier.inputs_with(x_BTD), ids_BS != 0, segments=ids_BS
        )
        at: tuple[Any, Any]
        if encoding.shift_invariant:  # then a document may begin anywhere
            at = positions_lib.consecutive(M), positions_lib.consecutive(0)
        else:
            at_BS = positions_lib.within_segments(ids_BS)
            at = at_BS[:, M:], at_BS
        out = attention(
            q, k, v, encoding=encoding,
            q_features=jax.tree.map(lambda f: f[:, M:], k_features), k_features=k_features,
            q_positions=at[0], k_positions=at[1], q_segments=ids_BS[:, M:], k_segments=ids_BS,
            **self._options, **attention_helpers.dropout_options(self.dropout_rate, dropout_key, deterministic),
        )  # fmt: skip
        return self._join(out)

    def init_cache(
        self,
        batch: int,
        max_length: int,
        *,
        positions: Num[Array, "B T *axes"] | None = None,
    ) -> Cache:
        """Return an empty cache.

        Args:
          batch: B.
          max_length: the largest number of tokens of a row. With a window and counted positions, the cache has no more
          entries than the window's past; with positions that are given, a window may hold any number of tokens.
          positions: like those of each call, [B, T] or [B, T, axes] for any T. Only the axes and the type are used: a
            `jax.ShapeDtypeStruct` will do. None: positions are counted.
        """
        if batch < 0 or max_length < 1:
            raise ValueError(f"a cache cannot have {batch} rows and {max_length} tokens")
        if not self.causal:
            raise ValueError(
                "a layer with causal=False sees future keys, which no cache has: make it causal"
            )
        encoding = self._bound()
        counts = positions is None
        if positions is None:
            capacity = min(max_length, self.window.past or max_length)
            at = jnp.zeros((batch, 1), jnp.int32)
        else:
            capacity = max_length
            dtype = jax.dtypes.canonicalize_dtype(positions.dtype)
            at = jnp.zeros((batch, 1, *positions.shape[2:]), dtype)
            at = checked_number("positions", at, (batch, 1), with_axes=True)
            check_positions(encoding, at)
        x = jnp.zeros((batch, 1, self.qkv.in_features), self.dtype)

        def one_token(encoding, x):
            _, k, v = self._project(x)
            features, state = encodings.tokens(encoding, x)
            k, v = self._ready(encoding, k, v, at, features)
            return (k, v), (moving_keys.kept(encoding, features), state)

        (k, v), (features, state) = nnx.eval_shape(one_token, encoding, x)

        def slots(x):
            return jnp.zeros((batch, capacity, *x.shape[2:]), x.dtype)

        return Cache(
            keys=by_head(slots(k)),
            values=by_head(slots(v)),
            positions=slots(at),
            written=jnp.zeros((batch, capacity), bool),
            features=jax.tree.map(slots, features),
            state=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state),
            length=jnp.zeros((batch,), jnp.int32),
            order=None if counts else slots(at if at.ndim == 2 else at[..., 0].astype(jnp.int32)),
            tables=tabulate(encoding, capacity) if counts else None,
        )

    def _bound(self) -> Encoding:
        """Return the encoding, bound to the layer's projections."""
        encoding = self.encoding or attention_helpers.no_positions()
        N, K, H = self.num_heads, self.num_kv_heads, self.head_dim
        kernel_DNH = self.qkv.kernel[...].reshape(-1, N + 2 * K, H)
        return encodings.bind(encoding, kernel_DNH[:, :N], kernel_DNH[:, N : N + K])

    @property
    def _options(self) -> dict[str, Any]:
        names = ("causal", "window", "scale", "softcap")
        return {name: getattr(self, name) for name in names}

    def _project(self, x_BTD):
        """Return queries, keys and values."""
        attention_helpers.check_input(x_BTD)
        if x_BTD.shape[-1] != self.qkv.in_features:
            raise ValueError(
                f"this layer takes [B, T, {self.qkv.in_features}], got {list(x_BTD.shape)}"
            )
        return self._split(self.qkv(x_BTD), self.num_heads)

    def _split(self, qkv_BTF, N: int):
        """Split a projection into N query heads, keys and values."""
        K = self.num_kv_heads
        qkv = qkv_BTF.reshape(*qkv_BTF.shape[:2], N + 2 * K, self.head_dim)
        q, k, v = qkv[:, :, :N], qkv[:, :, N : N + K], qkv[:, :, N + K :]
        return self.q_norm(q), self.k_norm(k), v

    def _ready(self, encoding, k, v, positions, features):
        """Return keys and values as a cache stores them."""
        k = transform_keys(encoding, k, positions, self.num_heads, features)
        k = moving_keys.of_own_heads(encoding, k, self.num_heads)
        v = transform_values(encoding, v, positions, self.num_heads, features)
        return match_heads(k, v)

    def _join(self, out_BTNH):
        return self.out(out_BTNH.reshape(*out_BTNH.shape[:2], self.num_heads * self.head_dim))

    def _attend_grown(
        self, all_tokens, q, v, state, valid, at, encoding, features, k, cache: Cache
    ):
        """Append keys and values to a cache, and attend to all."""
        positions, order = at
        of_keys = features if encoding.keeps_key_features else None
        grown = cache.append(k, v, of_keys, state, valid, positions, order)
        past = self.window.past
        is_ring = cache.counts and past is not None and cache.capacity <= past
        seen = (grown.key, grown.value, grown.positions, grown.written, grown.features)
        if is_ring and q.shape[1] > 1:
            # Earlier tokens of a chunk still see what its later ones overwrite.
            before = (cache.key, cache.value, cache.positions, cache.written, cache.features)
            now = (k, v, positions, valid, of_keys)
            seen = jax.tree.map(
                lambda a, b: jnp.concatenate([a, b.astype(a.dtype)], 1), before, now
            )
        keys, values, k_positions, written, k_features = seen
        options = self._options | {"q_positions": positions, "k_positions": k_positions}
        if cache.counts and not is_ring and all_tokens and q.shape[1] > 1:
            # Cache entries that are not written come after every token, so that causality masks them.
            options["q_positions"] = positions_lib.consecutive(cache.length)
            options["k_positions"] = positions_lib.consecutive(0)
        else:
            options["q_segments"] = valid.astype(jnp.int32)
            options["k_segments"] = written.astype(jnp.int32)
        out = attention(
            q, keys, values, encoding=encoding, keys_ready=True, tables=cache.tables,
            q_features=features, k_features=k_features, q_order=order, k_order=grown.order, **options,
        )  # fmt: skip
        if not cache.counts or past is None or cache.capacity < past:
            too_long = grown.length > cache.capacity
            out = jnp.where(too_long[:, None, None, None], jnp.nan, out)
        return out, grown


def _in_one_number(positions: Any, order: Any, shape: tuple[int, ...]) -> Any:
    """Return one number for each token that defines their order; None: the row's."""
    if order is not None or positions is None or isinstance(positions, positions_lib.Consecutive):
        return order
    return None if positions_lib.axes(positions, shape) else positions
