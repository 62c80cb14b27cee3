"""Multi-head attention with any position encoding."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos import encodings
from relpos import positions as positions_lib
from relpos.attention import attention, match_heads, tabulate, transform_keys, transform_values
from relpos.attention.checks import check_encoding, check_places, checked_number
from relpos.encodings import Encoding
from relpos.nn import moving_keys
from relpos.nn.cache import Cache, by_head
from relpos.nn.earlier import Earlier, check_earlier
from relpos.nn.linear import Linear, product
from relpos.nn.of_attention import (
    check_heads,
    check_input,
    dropout_options,
    no_positions,
)


class RelativeAttention(nnx.Module):
    """Self-attention of N query heads and K key/value heads, with a position encoding.

    out = concat_n(attention(x W_q, x W_k, x W_v)_n) W_o;  see `relpos.attention` for the equation of one head.
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
        dropout_rate: float = 0.0,
        dtype: Any = jnp.float32,
    ):
        """Make the projections and, from a name, the encoding.

        Args:
          num_heads: N, query heads.
          in_features: D, the width of input and output.
          encoding: a scheme's name or class (with its default options), an encoding made by
            `relpos.encodings.create`, or None: no positions, unless each call brings an encoding.
          rngs: for the initial parameters.
          num_kv_heads: K, a divisor of N; None: N.
          head_dim: H; None: D / N.
          causal: see only the past.
          window: see only keys with |d| < window; or a pair (past, future), see `relpos.positions.Window`.
          scale: of the dot products; None: 1 / sqrt(H). T5 itself has 1.
          softcap: logits become softcap * tanh(logits / softcap).
          dropout_rate: of the attention weights.
          dtype: to compute in; parameters are float32.

        Raises:
          ValueError: sizes that do not divide, or an unknown encoding.
        """
        num_kv_heads, head_dim = check_heads(num_heads, in_features, num_kv_heads, head_dim)
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = head_dim
        self.causal, self.dropout_rate = causal, dropout_rate
        self.window = positions_lib.Window.of(window)
        self.scale, self.softcap = scale, softcap
        self.dtype = dtype
        if isinstance(encoding, str | type):
            encoding = encodings.create(
                encoding,
                num_heads=num_heads,
                head_dim=self.head_dim,
                num_kv_heads=num_kv_heads,
                features=in_features,
                rngs=rngs,
            )
        if encoding is not None:
            check_encoding(
                encoding, num_heads, num_kv_heads, self.head_dim, causal, may_be_unbound=True
            )
        self.encoding = encoding
        heads = num_heads + 2 * num_kv_heads
        self.qkv = Linear(in_features, heads * self.head_dim, dtype=dtype, rngs=rngs)
        self.out = Linear(num_heads * self.head_dim, in_features, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        *,
        positions: Num[Array, "B T *axes"] | positions_lib.Consecutive | None = None,
        order: Num[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        cache: Cache | None = None,
        earlier: Earlier | Float[Array, "B M D"] | None = None,
        encoding: Encoding | None = None,
        dropout_key: Array | None = None,
        deterministic: bool | None = None,
    ) -> Any:
        """Attend.

        Args:
          x_BTD: the input.
          positions: any integers or reals, or with axes, [B, T, axes]; None: each token's place in its segment, or,
            with a cache that counts, behind the tokens in it.
          order: what causality and windows go by; None: the positions, or where these have axes the row.
          segments: ids of packed documents, 0 is padding; with a cache only 0 or not 0 matters.
          cache: from `init_cache` or an earlier call; the tokens of x come after those in it.
          earlier: the layer's inputs at the M tokens before, of an earlier segment of the text: keys and values are of
            both, and x counts on from them (`relpos.nn.Earlier`, Transformer-XL's recurrence). No gradient goes to an
            array; an `Earlier` is read as it is.
          encoding: used instead of the layer's own (one encoding shared by all layers).
          dropout_key: switches dropout on.
          deterministic: True: no dropout, whatever the key; False: a dropout rate needs a key; None: the key decides,
            and that there is none is logged once.

        Returns:
          [B, T, D]; with a cache the pair of that and the new cache. In a row with more tokens than its cache can
          hold everything is NaN.
        """
        encoding = self._bound(encoding)
        check_input(x_BTD)
        if x_BTD.shape[-1] != self.qkv.in_features:
            raise ValueError(
                f"this layer takes [B, T, {self.qkv.in_features}], got {list(x_BTD.shape)}"
            )
        q, k, v = self._project(x_BTD)
        options: dict[str, Any] = {
            "causal": self.causal,
            "window": self.window,
            "scale": self.scale,
            "softcap": self.softcap,
        }
        options |= dropout_options(self.dropout_rate, dropout_key, deterministic)
        if earlier is not None:
            earlier = earlier if isinstance(earlier, Earlier) else Earlier.of(earlier)
            check_earlier(earlier, x_BTD, cache=cache, positions=positions, order=order)
            return self._join(
                self._attend_earlier(encoding, x_BTD, (q, k, v), earlier, segments, options)
            )
        if cache is None:
            valid = None if segments is None else segments != 0
            features, _ = encodings.tokens(
                encoding, x_BTD, valid, segments=segments,
                positions=_in_one_number(positions, order, x_BTD.shape[:2]),
            )  # fmt: skip
            out = attention(
                q, k, v, encoding=encoding, q_features=features, k_features=features,
                q_positions=positions, k_positions=positions, q_order=order, k_order=order,
                q_segments=segments, k_segments=segments, **options,
            )  # fmt: skip
            return self._join(out)
        if cache.length.shape != x_BTD.shape[:1]:
            raise ValueError(
                f"the cache is of {cache.length.shape[0]} rows, the input of {x_BTD.shape[0]}"
            )
        valid = jnp.ones(x_BTD.shape[:2], bool) if segments is None else segments != 0
        at = cache.places(valid, positions, order)
        check_places(encoding, at[0])
        out, cache = self._attend_cached(
            encoding, x_BTD, q, k, v, valid, at, cache, all_tokens=segments is None, **options
        )
        return self._join(out), cache

    def init_cache(
        self,
        batch: int,
        max_length: int,
        *,
        encoding: Encoding | None = None,
        positions: Num[Array, "B T *axes"] | None = None,
    ) -> Cache:
        """Return an empty cache.

        Args:
          batch: B.
          max_length: how many tokens a row may come to; with a window, no more slots than its past are kept, unless
            positions are given: a window may then hold any number of tokens.
          encoding: as in the call.
          positions: such as each call will be given, [B, T] or [B, T, axes] of any number of tokens, of which the axes
            and the type are taken (a `jax.ShapeDtypeStruct` will do); None: positions are counted.
        """
        if batch < 0 or max_length < 1:
            raise ValueError(f"a cache of {batch} rows and {max_length} tokens cannot be")
        if not self.causal:
            raise ValueError(
                "a layer with causal=False sees keys to come, which no cache has: make it causal"
            )
        encoding = self._bound(encoding)
        counts = positions is None
        capacity = max_length
        if counts and self.window.past is not None:
            capacity = min(max_length, self.window.past)
        at = jnp.zeros((batch, 1), jnp.int32)
        if positions is not None:
            dtype = jax.dtypes.canonicalize_dtype(positions.dtype)
            at = jnp.zeros((batch, 1, *positions.shape[2:]), dtype)
            at = checked_number("positions", at, (batch, 1), with_axes=True)
            check_places(encoding, at)
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

    def _bound(self, encoding: Encoding | None) -> Encoding:
        """Return the encoding of a call, bound to the layer's projections."""
        encoding = encoding or self.encoding or no_positions()
        N, K, H = self.num_heads, self.num_kv_heads, self.head_dim
        kernel_DNH = self.qkv.kernel[...].reshape(-1, N + 2 * K, H)
        return encodings.bind(encoding, kernel_DNH[:, :N], kernel_DNH[:, N : N + K])

    def _project(self, x_BTD):
        qkv = self.qkv(x_BTD.astype(self.dtype))
        N, K = self.num_heads, self.num_kv_heads
        qkv = qkv.reshape(*x_BTD.shape[:2], N + 2 * K, self.head_dim)
        return qkv[:, :, :N], qkv[:, :, N : N + K], qkv[:, :, N + K :]

    def _ready(self, encoding, k, v, positions, features):
        """Return keys and values as a cache stores them."""
        k = transform_keys(encoding, k, positions, self.num_heads, features)
        k = moving_keys.of_own_heads(encoding, k, self.num_heads)
        v = transform_values(encoding, v, positions, self.num_heads, features)
        return match_heads(k, v)

    def _join(self, out_BTNH):
        return self.out(out_BTNH.reshape(*out_BTNH.shape[:2], self.num_heads * self.head_dim))

    def _attend_earlier(self, encoding, x_BTD, qkv, earlier: Earlier, segments, options):
        """Attend to the earlier tokens as well, whose keys and values are made anew."""
        q, k, v = qkv
        M, ids_BS = earlier.length, earlier.ids_with(x_BTD.shape[:2], segments)
        kernel = self.qkv.kernel[...].astype(self.dtype)[:, self.num_heads * self.head_dim :]
        kv = product(earlier.inputs.astype(self.dtype), kernel)
        kv = kv.reshape(*earlier.segments.shape, 2 * self.num_kv_heads, self.head_dim)
        before = jnp.split(kv, 2, axis=2)
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
        return attention(
            q, k, v, encoding=encoding,
            q_features=jax.tree.map(lambda f: f[:, M:], k_features), k_features=k_features,
            q_positions=at[0], k_positions=at[1],
            q_segments=ids_BS[:, M:], k_segments=ids_BS, **options,
        )  # fmt: skip

    def _attend_cached(
        self, encoding, x_BTD, q, k, v, valid, at, cache: Cache, *, all_tokens: bool, **options
    ):
        features, state = encodings.tokens(encoding, x_BTD, valid, cache.state)
        k, v = self._ready(encoding, k, v, at[0], features)
        attend = functools.partial(self._attend_grown, options, all_tokens, q, v, state, valid, at)
        if not moving_keys.come_along(encoding):
            return attend(encoding, features, k, cache)
        past, now = moving_keys.moved(encoding, cache.key, k, features)
        behind = cache.with_key(past)
        if x_BTD.shape[1] == 1:
            return attend(*moving_keys.standing(encoding, features), k, behind)
        out, _ = attend(encoding, features, k, moving_keys.walked_past(encoding, cache, features))
        return out, behind.append(now, v, moving_keys.kept(encoding, features), state, valid, *at)

    def _attend_grown(
        self, options, all_tokens, q, v, state, valid, at, encoding, features, k, cache: Cache
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
        options = options | {"q_positions": positions, "k_positions": k_positions}
        if cache.counts and not is_ring and all_tokens and q.shape[1] > 1:
            # Slots that are not written lie behind all tokens.
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
    """Return what tokens follow each other by; None: by their rows."""
    if order is not None or positions is None or isinstance(positions, positions_lib.Consecutive):
        return order
    return None if positions_lib.axes(positions, shape) else positions
