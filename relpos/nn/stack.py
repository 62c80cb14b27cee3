"""The layers of an encoder or decoder, scanned."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos import encodings
from relpos import positions as positions_lib
from relpos.attention import dropout
from relpos.attention.checks import check_places, checked_number
from relpos.encodings import Encoding
from relpos.nn.attention import RelativeAttention
from relpos.nn.cache import Cache
from relpos.nn.cross_attention import CrossAttention, Memory
from relpos.sharding import left_to_the_compiler

DTYPES = ("float32", "bfloat16", "float16", "float64")
NORMS = ("pre", "post")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The sizes of a stack of layers.

    Attributes:
      num_layers: a multiple of the number of encodings.
      features: D, the model's width.
      num_heads: N, query heads.
      num_kv_heads: K; None: N.
      head_dim: H; None: D / N.
      mlp_features: the width inside the MLP; None: 4 D.
      encodings: scheme names that the layers use in turn: ("rope", "none") turns in every other layer.
      window: see only the last `window` tokens; None: all.
      dropout_rate: of attention weights and of what each sublayer adds.
      norm: "pre": x + f(norm(x)); "post": norm(x + f(x)), as in Vaswani et al. 2017, arXiv:1706.03762.
      dtype: to compute in; parameters are float32.
    """

    num_layers: int
    features: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_features: int | None = None
    encodings: tuple[str, ...] = ("rope",)
    window: int | None = None
    dropout_rate: float = 0.0
    norm: str = "pre"
    dtype: str = "float32"

    def __post_init__(self):
        for field in ("num_layers", "features", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("num_kv_heads", "head_dim", "mlp_features", "window"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be positive, got {value}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must be in [0, 1), got {self.dropout_rate}")
        for field, known in (("dtype", DTYPES), ("norm", NORMS)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} must be one of {', '.join(known)}, got {getattr(self, field)!r}"
                )
        if self.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise ValueError(
                "dtype=float64 needs jax_enable_x64 (JAX_ENABLE_X64=1): without it JAX computes in float32"
            )
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


EncodingOptions = Mapping[str, Mapping[str, Any]]


def create_encoding(
    name: str, config: StackConfig, options: EncodingOptions, *, causal: bool, rngs: nnx.Rngs
) -> Encoding:
    """Make a scheme for layers of these sizes; where keys stand on both sides, its `bidirectional` is switched on."""
    chosen = dict(options.get(name, {}))
    if not causal and "bidirectional" in encodings.options(name):
        chosen["bidirectional"] = True
    return encodings.create(
        name, num_heads=config.num_heads, head_dim=config.head_size, features=config.features,
        rngs=rngs, **chosen,
    )  # fmt: skip


class Block(nnx.Module):
    """Self-attention, in a decoder of an encoder's output cross-attention, and an MLP, each with a way around it.

    The MLP is W_2 relu(W_1 x)^2 (So et al. 2021, arXiv:2109.08668).
    """

    def __init__(
        self,
        config: StackConfig,
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
            window=config.window,
            dropout_rate=config.dropout_rate,
            dtype=dtype,
        )
        self.mlp_norm = nnx.RMSNorm(D, dtype=dtype, rngs=rngs)
        # What a sublayer adds starts small: the sum over all layers keeps the size of the input.
        scale = 0.5 / config.num_layers if config.norm == "pre" else 1.0
        init = jax.nn.initializers.variance_scaling(1.0, "fan_in", "normal")
        small = jax.nn.initializers.variance_scaling(scale, "fan_in", "normal")
        self.mlp_in = nnx.Linear(D, M, use_bias=False, kernel_init=init, dtype=dtype, rngs=rngs)
        self.mlp_out = nnx.Linear(M, D, use_bias=False, kernel_init=small, dtype=dtype, rngs=rngs)
        self.cross = cross
        self.cross_norm = None if cross is None else nnx.RMSNorm(D, dtype=dtype, rngs=rngs)
        for attention in (self.attention, cross):
            if attention is not None:
                attention.out.kernel[...] = attention.out.kernel[...] * scale**0.5
        self.dropout_rate = config.dropout_rate

    def __call__(
        self, x_BTD, *, key=None, cache=None, memory=None, places=None, cross_encoding=None, **self_attention: Any
    ):  # fmt: skip
        """Return x, and the new cache, None without one."""
        keys: Any = [None] * 5 if key is None else jax.random.split(key, 5)
        h = self._before(x_BTD, self.attention_norm)
        out = self.attention(
            h, cache=cache, dropout_key=keys[0], deterministic=key is None, **self_attention
        )
        out, grown = (out, None) if cache is None else out
        x_BTD = self._after(x_BTD, out, self.attention_norm, keys[1])
        if self.cross is not None:
            out = self.cross(
                self._before(x_BTD, self.cross_norm), memory=memory, positions=places,
                segments=self_attention.get("segments"), encoding=cross_encoding,
                dropout_key=keys[2], deterministic=key is None,
            )  # fmt: skip
            x_BTD = self._after(x_BTD, out, self.cross_norm, keys[3])
        h = self._before(x_BTD, self.mlp_norm)
        out = self.mlp_out(jax.nn.relu(self.mlp_in(h)) ** 2)
        return self._after(x_BTD, out, self.mlp_norm, keys[4]), grown

    def _before(self, x, norm):
        return x if self.norm == "post" else norm(x)

    def _after(self, x, out, norm, key):
        x = x + _dropped(out, self.dropout_rate, key)
        return norm(x) if self.norm == "post" else x


class Stack(nnx.Module):
    """Layers whose parameters are stacked and scanned: compile time hardly grows with depth.

    Schemes that share their parameters by layers in the paper (and all that add to the input) have one encoding for
    the whole stack, the others one for each layer.
    """

    def __init__(
        self,
        config: StackConfig,
        *,
        causal: bool,
        encoding_options: EncodingOptions | None = None,
        cross_encoding: str | None = None,
        input_encoding: str | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the layers.

        Args:
          config: the sizes.
          causal: whether a token sees only those before it.
          encoding_options: scheme name -> its options.
          cross_encoding: a scheme for attention to a memory; "none": without positions; None: no such attention.
          input_encoding: a scheme that adds to the input at `embed_positions`, beside those of the layers.
          rngs: for the initial parameters.
        """
        options = encoding_options or {}

        def create(name: str, rngs: nnx.Rngs) -> Encoding:
            return create_encoding(name, config, options, causal=causal, rngs=rngs)

        self.config, self.causal = config, causal
        shared = {name for name in config.encodings if _is_shared(name)}
        self.encodings = nnx.Dict({name: create(name, rngs) for name in sorted(shared)})
        self.input_encoding = create(input_encoding, rngs) if input_encoding else None
        if cross_encoding is not None and encodings.scheme(cross_encoding).adds_to_input():
            raise ValueError(
                f"{cross_encoding} adds positions to the input, cross-attention has none of its own: choose "
                "none or a relative scheme"
            )
        crosses_alike = cross_encoding is not None and _is_shared(cross_encoding)

        def create_cross(rngs: nnx.Rngs) -> Encoding:
            assert cross_encoding is not None
            return create_encoding(cross_encoding, config, options, causal=False, rngs=rngs)

        self.cross_encoding = create_cross(rngs) if crosses_alike else None
        groups = config.num_layers // len(config.encodings)

        def stack(name: str) -> Block:
            def init(key):
                rngs = nnx.Rngs(key)
                own = None if name in shared else create(name, rngs)
                cross = None
                if cross_encoding is not None:
                    of_cross = None if crosses_alike else create_cross(rngs)
                    cross = CrossAttention(
                        config.num_heads, config.features, encoding=of_cross,
                        num_kv_heads=config.num_kv_heads, head_dim=config.head_dim,
                        dropout_rate=config.dropout_rate, dtype=jnp.dtype(config.dtype), rngs=rngs,
                    )  # fmt: skip
                return nnx.split(Block(config, own, causal=causal, cross=cross, rngs=rngs))

            keys = jax.random.split(rngs.params(), groups)
            graphdef = init(keys[0])[0]
            return nnx.merge(graphdef, jax.vmap(lambda key: init(key)[1])(keys))

        self.blocks = nnx.List([stack(name) for name in config.encodings])

    @property
    def max_length(self) -> int | None:
        """The longest sequence the encodings have parameters for; None: any."""
        of_layers = [block.attention.encoding for block in self.blocks]
        limits = [found.max_length for found in (*self._common, *of_layers) if found is not None]
        return min((limit for limit in limits if limit is not None), default=None)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        embed_positions: Num[Array, "B T *axes"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        caches: tuple[Cache, ...] | None = None,
        memories: dict[str, Memory] | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Cache, ...] | None]:
        """Run all layers.

        Args:
          x_BTD: embedded tokens; schemes that add to the input do it here.
          positions: any integers or reals, or with axes, [B, T, axes]; None: each token's place in its segment, or
            behind the tokens in the caches.
          order: what causality and windows go by; None: the positions, or where these have axes the row.
          embed_positions: of what is added to the input, that of `input_encoding` alone where there is one; None: the
            positions.
          segments: ids of packed documents, 0 is padding.
          caches: from `init_caches` or an earlier call.
          memories: from `memories`, of what cross-attention reads.
          key: switches dropout on.

        Returns:
          The output, and the new caches.
        """
        T = x_BTD.shape[1]
        if caches is None and self.max_length is not None and self.max_length < T:
            raise ValueError(
                f"{T} tokens are more than the {self.max_length} positions of {', '.join(self.config.encodings)}"
            )
        places = self._places(x_BTD.shape[:2], positions, segments, caches)
        added = places
        if embed_positions is not None:
            added = checked_number(
                "embed_positions", embed_positions, x_BTD.shape[:2], with_axes=True
            )
        x = x_BTD
        for encoding in self._common:
            x = self._embedded(encoding, x, added if self.input_encoding is None else places)
        if self.input_encoding is not None:
            x = self._embedded(self.input_encoding, x, added)
        graphs, states = zip(*(nnx.split(block) for block in self.blocks), strict=True)
        groups = self.config.num_layers // len(self.blocks)
        keys = None if key is None else jax.random.split(key, (groups, len(self.blocks)))
        if key is not None:
            x = _dropped(x, self.config.dropout_rate, jax.random.fold_in(key, groups))

        def group(x, inputs):
            states, keys, caches, memories = inputs
            grown = []
            for i, (graph, state, name) in enumerate(
                zip(graphs, states, self.config.encodings, strict=True)
            ):
                x, cache = nnx.merge(graph, state)(
                    x,
                    key=None if keys is None else keys[i],
                    cache=None if caches is None else caches[i],
                    memory=None if memories is None else memories[str(i)],
                    places=places,
                    cross_encoding=self.cross_encoding,
                    positions=positions,
                    order=order,
                    segments=segments,
                    encoding=self._shared(name),
                )
                grown.append(cache)
            return x, None if caches is None else tuple(grown)

        return jax.lax.scan(group, x, (states, keys, caches, memories), unroll=2)

    @staticmethod
    def _embedded(encoding: Encoding, x_BTD, places_BT):
        """Add what the encoding adds to the input."""
        if not encoding.adds_to_input():
            return x_BTD
        check_places(encoding, places_BT)
        graphdef, state = nnx.split(encoding)
        embed = left_to_the_compiler(_embed, (graphdef,), x_BTD, 0, 1)
        return embed(state, x_BTD, places_BT)

    def _shared(self, name: str) -> Encoding | None:
        """Return the encoding that all layers share; None where each has its own, or the input has it."""
        if not hasattr(self.encodings, name) or self.encodings[name].adds_to_input():
            return None
        found: Encoding = self.encodings[name]
        return found

    @property
    def _common(self) -> list[Encoding]:
        """Return the encodings that belong to no single layer."""
        # Not by the methods of nnx.Dict: nnx.tabulate replaces them, and of Flax 0.12.0 some raise.
        names = sorted(set(self.config.encodings))
        return [self.encodings[name] for name in names if hasattr(self.encodings, name)]

    def _places(self, shape, positions, segments, caches):
        """Return the positions that are added to the input, and those cross-attention counts from."""
        if positions is not None:
            return checked_number("positions", positions, shape, with_axes=True)
        if caches is not None:
            valid = jnp.ones(shape, bool) if segments is None else segments != 0
            first_layer: Cache = jax.tree.map(lambda x: x[0], caches[0])
            return jnp.maximum(first_layer.next_positions(valid), 0)
        if segments is not None:
            return positions_lib.within_segments(segments)
        return jnp.broadcast_to(positions_lib.contiguous(shape[1]), shape)

    def init_caches(
        self, batch: int, max_length: int, *, positions: Num[Array, "B T *axes"] | None = None
    ) -> tuple[Cache, ...]:
        """Return empty caches for all layers, for `batch` rows of up to `max_length` tokens.

        Args:
          batch: B.
          max_length: how many tokens a row may come to.
          positions: such as each call will be given, see `RelativeAttention.init_cache`; None: they are counted.
        """
        if self.max_length is not None and max_length > self.max_length:
            raise ValueError(
                f"a cache of {max_length} tokens is longer than the {self.max_length} positions of "
                f"{', '.join(self.config.encodings)}"
            )

        def stack(block: Block, name: str) -> Cache:
            graph, state = nnx.split(block)

            def one(state):
                attention = nnx.merge(graph, state).attention
                return attention.init_cache(
                    batch, max_length, encoding=self._shared(name), positions=positions
                )

            return jax.vmap(one)(state)

        return tuple(
            stack(block, name)
            for block, name in zip(self.blocks, self.config.encodings, strict=True)
        )

    def memories(
        self, encoded_BSD: Float[Array, "B S D"], segments: Int[Array, "B S"] | None = None
    ) -> dict[str, Memory]:
        """Return the keys and values of all layers' cross-attention to an encoder's output, by block."""

        def stack(block: Block) -> Memory:
            graph, state = nnx.split(block)

            def one(state):
                cross = nnx.merge(graph, state).cross
                if cross is None:
                    raise ValueError("this stack was made without cross-attention")
                return cross.remember(encoded_BSD, segments, encoding=self.cross_encoding)

            return jax.vmap(one)(state)

        return {str(i): stack(block) for i, block in enumerate(self.blocks)}


def _embed(graphdef, state, x_BTD, places_BT):
    return jax.vmap(nnx.merge(graphdef, state).embed)(x_BTD, places_BT)


def _dropped(x_BTD: Array, rate: float, key: Array | None) -> Array:
    """Drop activations by the hash that attention's weights are dropped by; without a key none.

    JAX's generator takes several times the operations for each of them.
    """
    if key is None or not rate:
        return x_BTD
    *rows, D = x_BTD.shape
    seed = dropout.seeds(key, ())
    kept = dropout.keep(seed, jnp.arange(math.prod(rows)), jnp.arange(D), rate)
    return jnp.where(kept.reshape(x_BTD.shape), x_BTD / (1 - rate), 0)


def _is_shared(name: str) -> bool:
    scheme = encodings.scheme(name)
    return scheme.shared_by_layers or scheme.adds_to_input()
