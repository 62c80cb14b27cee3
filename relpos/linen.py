"""Modules for Flax Linen users, which wrap the NNX modules."""

from typing import Any

import flax.linen as nn
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos import encodings
from relpos import nn as relpos_nn
from relpos.encodings import Encoding
from relpos.nn import Cache, Earlier
from relpos.nn.attention_helpers import check_input

# `nnx.bridge.ToLinen` is not used: it puts parameters into collections by NNX type, so that parameters per head would
# be in a separate collection, and a Linen train step, which differentiates "params", would not train them.


class RelativeAttention(nn.Module):
    """Self-attention of N query heads with a position encoding; see `relpos.RelativeAttention`.

    All parameters, including the encoding's, are in the collection "params".

    Attributes:
      num_heads: N, the number of query heads.
      encoding: a scheme's name or class, or an encoding from `relpos.encodings.create`, whose parameters then serve as
        initial values; None: no positions.
      encoding_options: the scheme's options, as in `relpos.encodings.create`.
      options: all other arguments of `relpos.RelativeAttention` except `rngs`: num_kv_heads, window, dtype, ...
    """

    num_heads: int
    encoding: str | type[Encoding] | Encoding | None = None
    encoding_options: Any = nn.FrozenDict()
    options: Any = nn.FrozenDict()

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Attend; the arguments are those of `relpos.RelativeAttention`.

        With deterministic=False and a dropout rate, the random stream "dropout" is read.
        """
        layer = self._bound(x_BTD)
        return layer(
            x_BTD, positions=positions, order=order, segments=segments,
            **self._dropout(layer, deterministic),
        )  # fmt: skip

    def decode(
        self,
        x_BTD: Float[Array, "B T D"],
        cache: Cache,
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Append x to a cache and attend, as `relpos.RelativeAttention.decode`: apply(..., method="decode")."""
        given = {"positions": positions, "order": order, "segments": segments}
        return self._bound(x_BTD).decode(x_BTD, cache, **given)

    def read_on(
        self,
        x_BTD: Float[Array, "B T D"],
        earlier: Earlier | Float[Array, "B M D"],
        *,
        segments: Int[Array, "B T"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "B T D"]:
        """Attend to earlier tokens too, as `relpos.RelativeAttention.read_on`: apply(..., method="read_on")."""
        layer = self._bound(x_BTD)
        dropout = self._dropout(layer, deterministic)
        return layer.read_on(x_BTD, earlier, segments=segments, **dropout)

    @nn.compact
    def _bound(self, x_BTD: Float[Array, "B T D"]) -> relpos_nn.RelativeAttention:
        """Return the layer for an input, with this module's parameters."""
        check_input(x_BTD)
        features = x_BTD.shape[-1]

        def init(key):
            return nnx.to_pure_dict(nnx.state(self._layer(features, nnx.Rngs(key)), nnx.Param))

        graphdef, initial, fixed = nnx.split(self._layer(features, nnx.Rngs(0)), nnx.Param, ...)  # type: ignore[misc]
        nnx.replace_by_pure_dict(initial, self.param("layer", init))
        return nnx.merge(graphdef, initial, fixed)

    def _dropout(self, layer: relpos_nn.RelativeAttention, deterministic: bool) -> dict[str, Any]:
        dropping = not deterministic and layer.dropout_rate > 0
        key = self.make_rng("dropout") if dropping else None
        return {"dropout_key": key, "deterministic": deterministic}

    def init_cache(self, batch: int, max_length: int, features: int, **more: Any) -> Cache:
        """Return an empty cache, as `relpos.RelativeAttention.init_cache`, for inputs of width `features`."""
        return self._layer(features, nnx.Rngs(0)).init_cache(batch, max_length, **more)

    def _layer(self, features: int, rngs: nnx.Rngs) -> relpos_nn.RelativeAttention:
        options = dict(self.options)
        encoding: Any = self.encoding
        if isinstance(encoding, Encoding):
            if self.encoding_options:
                raise ValueError(
                    "encoding_options are for a scheme's name or class, not for a created encoding"
                )
            encoding = nnx.clone(encoding)
        elif encoding is not None:
            head_dim = options.get("head_dim") or features // self.num_heads
            encoding = encodings.create(
                encoding, num_heads=self.num_heads, head_dim=head_dim, features=features,
                num_kv_heads=options.get("num_kv_heads"), rngs=rngs, **dict(self.encoding_options),
            )  # fmt: skip
        return relpos_nn.RelativeAttention(
            self.num_heads, features, encoding=encoding, rngs=rngs, **options
        )


class AttentionFunction(nn.Module):
    """The module that `attention_fn` returns."""

    encoding: Encoding
    causal: bool = False

    @nn.compact
    def __call__(
        self, query, key, value, bias=None, mask=None, dropout_rng=None, dropout_rate=0.0,
        broadcast_dropout=True, deterministic=True, dtype=None, precision=None,
    ):  # fmt: skip
        """Attend like `flax.linen.dot_product_attention`, with positions."""
        function = relpos_nn.attention_fn(nnx.clone(self.encoding), causal=self.causal)
        graphdef, initial, fixed = nnx.split(function, nnx.Param, ...)  # type: ignore[misc]
        pure = nnx.to_pure_dict(initial)
        if pure:
            nnx.replace_by_pure_dict(initial, self.param("function", lambda _: pure))
        return nnx.merge(graphdef, initial, fixed)(
            query, key, value, bias, mask, dropout_rng=dropout_rng, dropout_rate=dropout_rate,
            deterministic=deterministic, broadcast_dropout=broadcast_dropout, dtype=dtype,
            precision=precision,
        )  # fmt: skip


def attention_fn(encoding: Encoding, *, causal: bool = False) -> AttentionFunction:
    """Return an `attention_fn` for `flax.linen.MultiHeadDotProductAttention`; see `relpos.nn.attention_fn`.

    The encoding's parameters are in the layer's collection "params" and start from its values.
    """
    return AttentionFunction(encoding, causal)
