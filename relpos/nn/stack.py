"""The layers of an encoder or decoder, scanned."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos import positions as positions_lib
from relpos.attention.checks import check_places, checked_number
from relpos.encodings import Encoding
from relpos.nn import layer_encodings
from relpos.nn.block import Block, dropped
from relpos.nn.cache import Cache
from relpos.nn.cross_attention import CrossAttention, Memory
from relpos.nn.earlier import Earlier, check_layers
from relpos.nn.layer_encodings import EncodingOptions as EncodingOptions
from relpos.nn.stack_config import StackConfig as StackConfig
from relpos.nn.turns import Turn
from relpos.sharding import left_to_the_compiler

FEW_LAYERS = 8  # as quick to compile without a loop over them, whose turns copy what they hand on


class Stack(nnx.Module):
    """Layers whose parameters are stacked, and scanned where they are many: compile time hardly grows with depth.

    Each layer has an encoding of its own, but for the parameters that are marked as shared by layers; what adds to the
    input stands before the layers.
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
        self.config, self.causal = config, causal
        self.input_encodings = nnx.List(
            layer_encodings.of_input(config.encodings, config, options, rngs=rngs)
        )
        beside = (input_encoding,) if input_encoding else ()
        added = layer_encodings.of_input(beside, config, options, rngs=rngs)
        self.input_encoding = added[0] if added else None
        turns = config.turns
        groups = config.num_layers // len(turns)

        def cross(turn: Turn, rngs: nnx.Rngs) -> CrossAttention | None:
            if cross_encoding is None:
                return None
            encoding = layer_encodings.of_layer(
                cross_encoding, config, options, causal=False, rngs=rngs
            )
            if encoding is None:
                raise ValueError(
                    f"{cross_encoding} adds positions to the input, cross-attention has none of its own: choose "
                    "none or a relative scheme"
                )
            return CrossAttention(
                config.num_heads, config.features, encoding=encoding,
                num_kv_heads=config.num_kv_heads, head_dim=config.head_dim,
                scale=turn.scale, softcap=turn.softcap,
                dropout_rate=config.dropout_rate, dtype=jnp.dtype(config.dtype), rngs=rngs,
            )  # fmt: skip

        def stack(turn: Turn) -> Block:
            def init(key):
                rngs = nnx.Rngs(key)
                own = layer_encodings.of_layer(
                    turn.encoding, config, options, causal=causal, rngs=rngs
                )
                of_memory = cross(turn, rngs)
                return _split(Block(config, turn, own, causal=causal, cross=of_memory, rngs=rngs))

            keys = jax.random.split(rngs.params(), groups)
            graphdef, shared, _ = init(keys[0])
            return nnx.merge(graphdef, shared, jax.vmap(lambda key: init(key)[2])(keys))

        self.blocks = nnx.List(map(stack, turns))
        first: dict[str, Block] = {}
        for turn, block in zip(turns, self.blocks, strict=True):
            if first.setdefault(turn.encoding, block) is not block:
                layer_encodings.tie(block.attention, first[turn.encoding].attention)
            if block is not self.blocks[0]:
                layer_encodings.tie(block.cross, self.blocks[0].cross)

    @property
    def max_length(self) -> int | None:
        """The longest sequence the encodings have parameters for; None: any."""
        of_layers = [block.attention.encoding for block in self.blocks]
        limits = [
            found.max_length for found in (*self.input_encodings, *of_layers) if found is not None
        ]
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
        earlier: tuple[Earlier, ...] | None = None,
        memories: dict[str, Memory] | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B T D"], Any]:
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
          earlier: from `init_earlier` or the call for the segment before this one.
          memories: from `memories`, of what cross-attention reads.
          key: switches dropout on.

        Returns:
          The output, and the new caches or, of each layer, the last inputs for the segment to come.
        """
        T = x_BTD.shape[1]
        if earlier is not None:
            check_layers(earlier, x_BTD, len(self.blocks), caches, positions, order)
            self._check_embedded(embed_positions)
            T += earlier[0].length
        if caches is None and self.max_length is not None and self.max_length < T:
            raise ValueError(
                f"{T} tokens are more than the {self.max_length} positions of "
                f"{', '.join(map(str, self.config.encodings))}"
            )
        places = self._places(x_BTD.shape[:2], positions, segments, caches, earlier)
        added = places
        if embed_positions is not None:
            added = checked_number(
                "embed_positions", embed_positions, x_BTD.shape[:2], with_axes=True
            )
        x = x_BTD
        for encoding in self.input_encodings:
            x = self._embedded(encoding, x, added if self.input_encoding is None else places)
        if self.input_encoding is not None:
            x = self._embedded(self.input_encoding, x, added)
        graphs, shared, states = zip(*map(_split, self.blocks), strict=True)
        groups = self.config.num_layers // len(self.blocks)
        keys = None if key is None else jax.random.split(key, (groups, len(self.blocks)))
        if key is not None:
            x = dropped(x, self.config.dropout_rate, jax.random.fold_in(key, groups))

        def group(x, inputs):
            states, keys, caches, earlier, memories = inputs
            grown = []
            for i, (graph, of_all, state) in enumerate(zip(graphs, shared, states, strict=True)):
                x, cache = nnx.merge(graph, of_all, state)(
                    x,
                    key=None if keys is None else keys[i],
                    cache=None if caches is None else caches[i],
                    earlier=None if earlier is None else earlier[i],
                    memory=None if memories is None else memories[str(i)],
                    places=places,
                    positions=positions,
                    order=order,
                    segments=segments,
                )
                grown.append(cache)
            return x, None if caches is None and earlier is None else tuple(grown)

        if caches is not None and not _is_stacked(caches):
            if len(caches) != self.config.num_layers:
                raise ValueError(
                    f"got {len(caches)} caches for {self.config.num_layers} layers: make them by init_caches"
                )
            grown: tuple[Cache, ...] = ()
            for number in range(groups):
                own, key, memory = jax.tree.map(lambda x, n=number: x[n], (states, keys, memories))
                of_group = caches[number * len(graphs) : (number + 1) * len(graphs)]
                x, more = group(x, (own, key, of_group, None, memory))
                grown += more
            return x, grown
        unroll = groups if self.config.num_layers <= FEW_LAYERS else 2
        return jax.lax.scan(group, x, (states, keys, caches, earlier, memories), unroll=unroll)

    @staticmethod
    def _embedded(encoding: Encoding, x_BTD, places_BT):
        """Add what the encoding adds to the input."""
        if not encoding.adds_to_input():
            return x_BTD
        check_places(encoding, places_BT)
        graphdef, state = nnx.split(encoding)
        embed = left_to_the_compiler(_embed, (graphdef,), x_BTD, 0, 1)
        return embed(state, x_BTD, places_BT)

    def _check_embedded(self, embed_positions: Any) -> None:
        """Refuse to add positions to an input whose earlier segments have had others."""
        beside = () if self.input_encoding is None else (self.input_encoding,)
        added = [*self.input_encodings, *beside]
        if embed_positions is not None:  # they place one of the two, see `__call__`
            added = list(self.input_encodings) if beside else []
        if added:
            names = ", ".join(type(encoding).__name__ for encoding in added)
            raise ValueError(
                f"{names} adds positions to the input, and tokens of an earlier segment have had theirs, counted from "
                "its own start: choose a relative scheme, or give embed_positions that count on through the text"
            )

    def _places(self, shape, positions, segments, caches, earlier):
        """Return the positions that are added to the input, and those cross-attention counts from."""
        if positions is not None:
            return checked_number("positions", positions, shape, with_axes=True)
        if caches is not None:
            valid = jnp.ones(shape, bool) if segments is None else segments != 0
            first = caches[0]
            first = jax.tree.map(lambda x: x[0], first) if _is_stacked(caches) else first
            return jnp.maximum(first.next_positions(valid), 0)
        if earlier is not None:
            ids_BS = earlier[0].of_layer(0).ids_with(shape, segments)
            return positions_lib.within_segments(ids_BS)[:, earlier[0].length :]
        if segments is not None:
            return positions_lib.within_segments(segments)
        return jnp.broadcast_to(positions_lib.contiguous(shape[1]), shape)

    def init_caches(
        self, batch: int, max_length: int, *, positions: Num[Array, "B T *axes"] | None = None
    ) -> tuple[Cache, ...]:
        """Return empty caches for all layers, for `batch` rows of up to `max_length` tokens.

        Of few layers there is one for each, of many one for each stack of layers, which are scanned.

        Args:
          batch: B.
          max_length: how many tokens a row may come to.
          positions: such as each call will be given, see `RelativeAttention.init_cache`; None: they are counted.
        """
        if self.max_length is not None and max_length > self.max_length:
            raise ValueError(
                f"a cache of {max_length} tokens is longer than the {self.max_length} positions of "
                f"{', '.join(map(str, self.config.encodings))}"
            )

        def stack(block: Block) -> Cache:
            graph, shared, state = _split(block)

            def one(state):
                attention = nnx.merge(graph, shared, state).attention
                return attention.init_cache(batch, max_length, positions=positions)

            return jax.vmap(one)(state)

        stacked = tuple(map(stack, self.blocks))
        if self.config.num_layers > FEW_LAYERS:
            return stacked
        groups = self.config.num_layers // len(self.blocks)
        # Each layer by itself is written in place, where a stack of them would be taken apart and put together.
        return tuple(
            jax.tree.map(lambda x, n=number: x[n], cache)
            for number in range(groups)
            for cache in stacked
        )

    def apart(self) -> "Stack":
        """Return a copy whose layers, if they are few, are blocks of their own; of many the stack itself.

        For loops of decoding: what is taken out of the stacked parameters is taken out before the loop, once. It takes
        as much memory as they do.
        """
        if self.config.num_layers > FEW_LAYERS:
            return self
        groups = self.config.num_layers // len(self.blocks)
        blocks = []
        for number in range(groups):
            for block in self.blocks:
                graph, shared, own = _split(block)
                one = jax.tree.map(lambda x, n=number: x[n : n + 1], own)
                blocks.append(nnx.merge(graph, shared, one))
        alike = nnx.merge(*nnx.split(self))
        alike.blocks = nnx.List(blocks)
        return alike

    def init_earlier(self, batch: int, length: int) -> tuple[Earlier, ...]:
        """Return what all layers remember before the first segment of a text: nothing.

        Args:
          batch: B.
          length: M, how many tokens before a segment its own may see; of the layers' windows no more than the past.
        """
        if batch < 0 or length < 1:
            raise ValueError(f"the earlier inputs of {batch} rows and {length} tokens cannot be")
        shape = (self.config.num_layers // len(self.blocks), batch, length)

        def nothing() -> Earlier:
            inputs = jnp.zeros((*shape, self.config.features), jnp.dtype(self.config.dtype))
            return Earlier(inputs, jnp.zeros(shape, jnp.int32))

        return tuple(nothing() for _ in self.blocks)

    def memories(
        self, encoded_BSD: Float[Array, "B S D"], segments: Int[Array, "B S"] | None = None
    ) -> dict[str, Memory]:
        """Return the keys and values of all layers' cross-attention to an encoder's output, by block."""

        def stack(block: Block) -> Memory:
            graph, shared, state = _split(block)

            def one(state):
                cross = nnx.merge(graph, shared, state).cross
                if cross is None:
                    raise ValueError("this stack was made without cross-attention")
                return cross.remember(encoded_BSD, segments)

            return jax.vmap(one)(state)

        return {str(i): stack(block) for i, block in enumerate(self.blocks)}


def _is_stacked(caches: tuple[Cache, ...]) -> bool:
    return caches[0].length.ndim > 1


def _embed(graphdef, state, x_BTD, places_BT):
    return jax.vmap(nnx.merge(graphdef, state).embed)(x_BTD, places_BT)


def _split(block: Block) -> tuple[Any, Any, Any]:
    """Return (graphdef, what all layers share, what is each layer's)."""
    graphdef, shared, own = nnx.split(block, layer_encodings.is_shared_by_layers, ...)  # type: ignore[misc]
    return graphdef, shared, own
