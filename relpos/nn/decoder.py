"""A decoder-only Transformer, its layers scanned."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from relpos import encodings
from relpos import positions as positions_lib
from relpos.encodings import Encoding
from relpos.nn.attention import RelativeAttention
from relpos.nn.cache import Cache

DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """The sizes of a decoder.

    Attributes:
      vocab_size: V.
      num_layers: a multiple of the number of encodings.
      features: D, the model's width.
      num_heads: N, query heads.
      num_kv_heads: K; None: N.
      head_dim: H; None: D / N.
      mlp_features: the width inside the MLP; None: 4 D.
      encodings: scheme names that the layers use in turn: ("rope", "none") turns in every other layer.
      window: see only the last `window` tokens; None: all.
      dropout_rate: of attention weights and of what each sublayer adds.
      dtype: to compute in; parameters are float32.
    """

    vocab_size: int
    num_layers: int
    features: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_features: int | None = None
    encodings: tuple[str, ...] = ("rope",)
    window: int | None = None
    dropout_rate: float = 0.0
    dtype: str = "float32"

    def __post_init__(self):
        for field in ("vocab_size", "num_layers", "features", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("num_kv_heads", "head_dim", "mlp_features", "window"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be positive, got {value}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must be in [0, 1), got {self.dropout_rate}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.head_dim is None and self.features % self.num_heads:
            raise ValueError(
                f"features={self.features} does not divide into num_heads={self.num_heads} heads: "
                "choose a multiple or set head_dim"
            )
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(
                f"num_heads={self.num_heads} query heads cannot share num_kv_heads={self.num_kv_heads} evenly"
            )
        if not self.encodings or self.num_layers % len(self.encodings):
            raise ValueError(
                f"{self.num_layers} layers cannot take {len(self.encodings)} encodings in turn "
                f"({', '.join(self.encodings)}): the number of layers must be a multiple"
            )

    @property
    def head_size(self) -> int:
        """Return H."""
        return self.head_dim or self.features // self.num_heads


class Block(nnx.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    The MLP is W_2 relu(W_1 x)^2 (So et al. 2021, arXiv:2109.08668).
    """

    def __init__(self, config: DecoderConfig, encoding: Encoding | None, rngs: nnx.Rngs):
        D, dtype = config.features, jnp.dtype(config.dtype)
        M = 4 * D if config.mlp_features is None else config.mlp_features
        self.attention_norm = nnx.RMSNorm(D, dtype=dtype, rngs=rngs)
        self.attention = RelativeAttention(
            config.num_heads,
            D,
            encoding=encoding,
            rngs=rngs,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            window=config.window,
            dropout_rate=config.dropout_rate,
            dtype=dtype,
        )
        self.mlp_norm = nnx.RMSNorm(D, dtype=dtype, rngs=rngs)
        init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        # What a sublayer adds starts small: the sum over all layers keeps the size of the input.
        small = jax.nn.initializers.variance_scaling(0.5 / config.num_layers, "fan_in", "normal")
        self.mlp_in = nnx.Linear(D, M, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)
        self.mlp_out = nnx.Linear(M, D, use_bias=False, kernel_init=small, dtype=dtype, rngs=rngs)
        self.attention.out.kernel[...] = (
            self.attention.out.kernel[...] * (0.5 / config.num_layers) ** 0.5
        )
        self.dropout = nnx.Dropout(config.dropout_rate)

    def __call__(self, x_BTD, *, key=None, cache=None, **attention: Any):
        """Return x, or x and the new cache."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        added = self.attention(
            self.attention_norm(x_BTD), cache=cache, dropout_key=keys[0], **attention
        )
        added, cache = (added, None) if cache is None else added
        x_BTD = x_BTD + self._drop(added, keys[1])
        added = self.mlp_out(jax.nn.relu(self.mlp_in(self.mlp_norm(x_BTD))) ** 2)
        return x_BTD + self._drop(added, keys[2]), cache

    def _drop(self, x, key):
        if key is None:
            return x
        return self.dropout(x, deterministic=False, rngs=nnx.Rngs(dropout=key))


class Decoder(nnx.Module):
    """Tokens to logits, the embedding tied to the output.

    The layers' parameters are stacked and scanned: compile time hardly grows with depth. Schemes that share their
    parameters by layers in the paper (and all that add to the input) have one encoding for the whole model, the
    others one for each layer.
    """

    def __init__(
        self,
        config: DecoderConfig,
        *,
        encoding_options: Mapping[str, Mapping[str, Any]] | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the model.

        Args:
          config: the sizes.
          encoding_options: scheme name -> its options.
          rngs: for the initial parameters.
        """
        chosen = encoding_options or {}

        def create(name: str, rngs: nnx.Rngs) -> Encoding:
            return encodings.create(
                name, num_heads=config.num_heads, head_dim=config.head_size, features=config.features,
                rngs=rngs, **chosen.get(name, {}),
            )  # fmt: skip

        self.config = config
        init = jax.nn.initializers.normal(config.features**-0.5)
        self.embed = nnx.Embed(
            config.vocab_size, config.features, embedding_init=init, dtype=jnp.dtype(config.dtype), rngs=rngs
        )  # fmt: skip
        self.norm = nnx.RMSNorm(config.features, dtype=jnp.dtype(config.dtype), rngs=rngs)
        schemes = {name: encodings.scheme(name) for name in config.encodings}
        shared = sorted(
            name for name, cls in schemes.items() if cls.shared_by_layers or cls.adds_to_input()
        )
        self.encodings = nnx.Dict({name: create(name, rngs) for name in shared})
        groups = config.num_layers // len(config.encodings)

        def stack(name: str) -> Block:
            def init(key):
                rngs = nnx.Rngs(key)
                own = None if name in shared else create(name, rngs)
                return nnx.split(Block(config, own, rngs))

            keys = jax.random.split(rngs.params(), groups)
            graphdef = init(keys[0])[0]
            return nnx.merge(graphdef, jax.vmap(lambda key: init(key)[1])(keys))

        self.blocks = nnx.List([stack(name) for name in config.encodings])

    @property
    def max_length(self) -> int | None:
        """The longest sequence the encodings have parameters for; None: any."""
        limits = [encoding.max_length for encoding in self.encodings.values()]
        return min((limit for limit in limits if limit is not None), default=None)

    def __call__(
        self,
        tokens_BT: Int[Array, "B T"],
        *,
        positions: Int[Array, "B T"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        caches: Any = None,
        key: Array | None = None,
    ) -> Any:
        """Return the logits of each next token.

        Args:
          tokens_BT: token ids.
          positions: any integers; None: each token's place in its segment.
          segments: ids of packed documents, 0 is padding.
          caches: from `init_caches` or an earlier call.
          key: switches dropout on.

        Returns:
          [B, T, V] in float32; with caches the pair of that and the new caches.
        """
        T = tokens_BT.shape[1]
        if caches is None and self.max_length is not None and self.max_length < T:
            raise ValueError(
                f"{T} tokens are more than the {self.max_length} positions of {', '.join(self.config.encodings)}"
            )
        x = self.embed(tokens_BT) * self.config.features**0.5
        places = self._places(tokens_BT, positions, segments, caches)
        for encoding in self.encodings.values():
            x = jax.vmap(encoding.embed)(x, places)
        graphs, states = zip(*(nnx.split(block) for block in self.blocks), strict=True)
        groups = self.config.num_layers // len(self.blocks)
        keys = None if key is None else jax.random.split(key, (groups, len(self.blocks)))
        drop = nnx.Dropout(self.config.dropout_rate)
        if key is not None:
            x = drop(x, deterministic=False, rngs=nnx.Rngs(dropout=jax.random.fold_in(key, groups)))

        def group(x, inputs):
            states, keys, caches = inputs
            grown = []
            for i, (graph, state, name) in enumerate(
                zip(graphs, states, self.config.encodings, strict=True)
            ):
                x, cache = nnx.merge(graph, state)(
                    x,
                    key=None if keys is None else keys[i],
                    cache=None if caches is None else caches[i],
                    positions=positions,
                    segments=segments,
                    encoding=self._shared(name),
                )
                grown.append(cache)
            return x, None if caches is None else tuple(grown)

        x, caches = jax.lax.scan(group, x, (states, keys, caches), unroll=2)
        logits = self.norm(x) @ self.embed.embedding[...].T.astype(x.dtype)
        logits = logits.astype(jnp.float32)
        return logits if caches is None else (logits, caches)

    def _shared(self, name: str) -> Encoding | None:
        """Return the encoding that all layers share; None where each has its own, or the input has it."""
        found: Encoding | None = self.encodings.get(name)
        return None if found is None or found.adds_to_input() else found

    def _places(self, tokens_BT, positions, segments, caches):
        """Return the positions that are added to the input."""
        if caches is not None:
            valid = jnp.ones(tokens_BT.shape, bool) if segments is None else segments != 0
            first_layer: Cache = jax.tree.map(lambda x: x[0], caches[0])
            return jnp.maximum(first_layer.next_positions(valid), 0)
        if positions is not None:
            return jnp.broadcast_to(positions, tokens_BT.shape)
        if segments is not None:
            return positions_lib.within_segments(segments)
        return jnp.broadcast_to(positions_lib.contiguous(tokens_BT.shape[1]), tokens_BT.shape)

    def init_caches(self, batch: int, max_length: int) -> tuple[Cache, ...]:
        """Return empty caches for all layers, for `batch` rows of up to `max_length` tokens."""
        if self.max_length is not None and max_length > self.max_length:
            raise ValueError(
                f"a cache of {max_length} tokens is longer than the {self.max_length} positions of "
                f"{', '.join(self.config.encodings)}"
            )

        def stack(block: Block, name: str) -> Cache:
            graph, state = nnx.split(block)

            def one(state):
                attention = nnx.merge(graph, state).attention
                return attention.init_cache(batch, max_length, encoding=self._shared(name))

            return jax.vmap(one)(state)

        return tuple(
            stack(block, name)
            for block, name in zip(self.blocks, self.config.encodings, strict=True)
        )
