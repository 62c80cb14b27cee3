"""The layers of an encoder or decoder, scanned."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos import positions as positions_lib
from relpos.attention.checks import checked_number
from relpos.encodings import Encoding
from relpos.nn import layer_encodings, stacked
from relpos.nn.added_to_input import add_to_input, check_counted_on
from relpos.nn.block import At, Block, dropped
from relpos.nn.cache import Cache
from relpos.nn.cross_attention import Memory
from relpos.nn.earlier import Earlier, check_earlier
from relpos.nn.layer_encodings import EncodingOptions
from relpos.nn.layer_pattern import LayerOptions
from relpos.nn.transformer_config import TransformerConfig
from relpos.places import Placed


class Stack(nnx.Module):
    """Layers whose parameters are stacked. Many layers are scanned, so that compile time hardly grows with depth.

    Each layer has its own encoding, except for parameters that are marked as shared by layers. Encodings that add to
    the input are applied once, before the first layer.

    The methods that run the layers share these arguments:

      x_BTD: embedded tokens.
      placed: as in the call of a `TokenModel`; by default each token's index in its segment, or after the tokens in the
        caches. `embed_positions` are those of `input_encoding`, or without one, of all that adds to the input.
      segments: ids of packed documents, 0 is padding; None: one document.
      memories: from `memories`, what cross-attention reads.
      key: a random key, which switches dropout on.
    """

    def __init__(
        self,
        config: TransformerConfig,
        *,
        causal: bool,
        encoding_options: EncodingOptions | None = None,
        cross_encoding: str | None = None,
        input_encoding: str | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the layers.

        `encoding_options` are scheme name -> its options. `cross_encoding` is the scheme of cross-attention; "none":
        without positions; None: no cross-attention. `input_encoding` adds to the input at `embed_positions`, besides
        the schemes of the layers.
        """
        options = encoding_options or {}
        self.config, self.causal = config, causal
        self.input_encodings = nnx.List(
            layer_encodings.of_input(config.encodings, config, options, rngs=rngs)
        )
        beside = (input_encoding,) if input_encoding else ()
        added = layer_encodings.of_input(beside, config, options, rngs=rngs)
        self.input_encoding = added[0] if added else None

        def made(text: Any, causal: bool, rngs: nnx.Rngs) -> Encoding | None:
            return layer_encodings.of_layer(text, config, options, causal=causal, rngs=rngs)

        def stack(layer: LayerOptions) -> Block:
            def init(key):
                rngs, cross = nnx.Rngs(key), None
                own = made(layer.encoding, causal, rngs)
                if cross_encoding is not None:
                    cross = made(cross_encoding, False, rngs)
                    if cross is None:
                        raise ValueError(
                            f"{cross_encoding} adds positions to the input, so it cannot be used in cross-attention: "
                            "choose none or a relative scheme"
                        )
                return stacked.split(
                    Block(config, layer, own, causal=causal, cross_encoding=cross, rngs=rngs)
                )

            keys = jax.random.split(rngs.params(), config.num_layers // len(config.pattern))
            graphdef, shared, _ = init(keys[0])
            return nnx.merge(graphdef, shared, jax.vmap(lambda key: init(key)[2])(keys))

        self.blocks = nnx.List(map(stack, config.pattern))
        first: dict[str, Block] = {}
        for layer, block in zip(config.pattern, self.blocks, strict=True):
            if first.setdefault(layer.encoding, block) is not block:
                layer_encodings.tie(block.attention, first[layer.encoding].attention)
            if block is not self.blocks[0]:
                layer_encodings.tie(block.cross, self.blocks[0].cross)

    @property
    def groups(self) -> int:
        """The pattern's number of repetitions."""
        return self.config.num_layers // len(self.blocks)

    @property
    def max_length(self) -> int | None:
        """The longest sequence the encodings have parameters for; None: any."""
        of_layers = [block.attention.encoding for block in self.blocks]
        made = (*self.input_encodings, *of_layers)
        limits = (encoding.max_length for encoding in made if encoding is not None)
        return min((limit for limit in limits if limit is not None), default=None)

    def __call__(
        self,
        x_BTD: Float[Array, "B T D"],
        placed: Placed = Placed(),
        *,
        segments: Int[Array, "B T"] | None = None,
        memories: dict[str, Memory] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "B T D"]:
        """Return the output of the last layer."""
        shape = x_BTD.shape[:2]
        self._check_length(shape[1])
        if placed.positions is not None:
            query_positions = checked_number("positions", placed.positions, shape, with_axes=True)
        elif segments is not None:
            query_positions = positions_lib.within_segments(segments)
        else:
            query_positions = jnp.broadcast_to(positions_lib.contiguous(shape[1]), shape)

        at = At(query_positions, segments, placed.positions, placed.order)

        def one(block, x, key, _, memory):
            return block(x, at=at, memory=memory, key=key), None

        return self._run(
            one, x_BTD, query_positions, placed.embed_positions, key, memories=memories
        )[0]

    def decode(
        self,
        x_BTD: Float[Array, "B T D"],
        caches: tuple[Cache, ...],
        placed: Placed = Placed(),
        *,
        segments: Int[Array, "B T"] | None = None,
        memories: dict[str, Memory] | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Cache, ...]]:
        """Return the output for tokens that follow those in the caches, and the new caches.

        `caches` come from `init_caches` or the previous call.
        """
        shape, in_a_loop = x_BTD.shape[:2], caches[0].length.ndim > 1
        if not in_a_loop and len(caches) != self.config.num_layers:
            raise ValueError(
                f"got {len(caches)} caches for {self.config.num_layers} layers: make them with init_caches"
            )
        if placed.positions is not None:
            query_positions = checked_number("positions", placed.positions, shape, with_axes=True)
        else:
            first = jax.tree.map(lambda x: x[0], caches[0]) if in_a_loop else caches[0]
            valid = jnp.ones(shape, bool) if segments is None else segments != 0
            query_positions = jnp.maximum(first.next_positions(valid), 0)

        at = At(query_positions, segments, placed.positions, placed.order)

        def one(block, x, _, cache, memory):
            return block.decode(x, cache, at=at, memory=memory)

        return self._run(
            one, x_BTD, query_positions, placed.embed_positions, carried=caches, memories=memories,
            in_a_loop=in_a_loop,
        )  # fmt: skip

    def read_on(
        self,
        x_BTD: Float[Array, "B T D"],
        earlier: tuple[Earlier, ...],
        *,
        embed_positions: Num[Array, "B T *axes"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple[Earlier, ...]]:
        """Run the layers on the next segment of a text, attending also to each layer's earlier inputs (Transformer-XL).

        `earlier` is from `init_earlier` or the call for the previous segment. From segment to segment, a document keeps
        its id, and `embed_positions`, if an encoding adds to the input, continue.

        Returns:
          The output, and the last inputs of each layer for the next segment.
        """
        shape = x_BTD.shape[:2]
        if len(earlier) != len(self.blocks):
            raise ValueError(
                f"earlier has the inputs of {len(earlier)} blocks of layers, this stack has {len(self.blocks)}: make "
                "it with init_earlier"
            )
        check_earlier(earlier[0].of_layer(0), x_BTD)
        check_counted_on(self.input_encodings, self.input_encoding, embed_positions)
        M = earlier[0].length
        self._check_length(M + shape[1])
        ids_BS = earlier[0].of_layer(0).ids_with(shape, segments)
        query_positions = positions_lib.within_segments(ids_BS)[:, M:]

        def one(block, x, key, earlier, _):
            return block.read_on(x, earlier, at=At(query_positions, segments), key=key)

        return self._run(one, x_BTD, query_positions, embed_positions, key, carried=earlier)

    def _run(self, one, x_BTD, query_positions, embed_positions, key=None, **options):
        """Run all layers on the input with what is added to it; a key switches dropout on."""
        x_BTD = add_to_input(
            x_BTD, self.input_encodings, self.input_encoding, query_positions, embed_positions
        )
        keys = None
        if key is not None:
            keys = jax.random.split(key, (self.groups, len(self.blocks)))
            of_input = jax.random.fold_in(key, self.groups)
            x_BTD = dropped(x_BTD, self.config.rate_of("input"), of_input)
        return stacked.run(self.blocks, self.groups, one, x_BTD, keys=keys, **options)

    def _check_length(self, length: int) -> None:
        if self.max_length is not None and self.max_length < length:
            raise ValueError(
                f"{length} tokens are more than the {self.max_length} positions of "
                f"{', '.join(map(str, self.config.encodings))}"
            )

    def init_caches(
        self, batch: int, max_length: int, *, positions: Num[Array, "B T *axes"] | None = None
    ) -> tuple[Cache, ...]:
        """Return empty caches for all layers; the arguments are those of `RelativeAttention.init_cache`.

        Up to `FEW_LAYERS` layers have a cache each; beyond that, each block of scanned layers has one.
        """
        self._check_length(max_length)

        def empty(block: Block) -> Cache:
            return block.attention.init_cache(batch, max_length, positions=positions)

        caches = tuple(stacked.of_each_layer(block, empty) for block in self.blocks)
        if self.config.num_layers > stacked.FEW_LAYERS:
            return caches
        # A single layer's cache is updated in place; a stack would be unstacked and restacked.
        return tuple(
            jax.tree.map(lambda x, n=number: x[n], cache)
            for number in range(self.groups)
            for cache in caches
        )

    def apart(self) -> "Stack":
        """Return a copy with a block for each layer, to decode in a loop; a stack of many layers returns itself.

        Each layer's parameters are then sliced from the stacked ones once, before the loop. The copy is as large as
        they are.
        """
        if self.config.num_layers > stacked.FEW_LAYERS:
            return self
        alike = nnx.merge(*nnx.split(self))
        alike.blocks = nnx.List(stacked.apart(self.blocks, self.groups))
        return alike

    def init_earlier(self, batch: int, length: int) -> tuple[Earlier, ...]:
        """Return empty earlier inputs for all layers, for the first segment of a text.

        Tokens of a segment may see the M = `length` tokens before it; windows may limit this further.
        """
        if batch < 0 or length < 1:
            raise ValueError(f"the earlier inputs of {batch} rows and {length} tokens cannot be")
        shape, dtype = (self.groups, batch, length), jnp.dtype(self.config.dtype)
        return tuple(
            Earlier(jnp.zeros((*shape, self.config.features), dtype), jnp.zeros(shape, jnp.int32))
            for _ in self.blocks
        )

    def memories(
        self, encoded_BSD: Float[Array, "B S D"], segments: Int[Array, "B S"] | None = None
    ) -> dict[str, Memory]:
        """Return the keys and values of all layers' cross-attention to an encoder's output, by block."""

        def remember(block: Block) -> Memory:
            if block.cross is None:
                raise ValueError("this stack was made without cross-attention")
            return block.cross.remember(encoded_BSD, segments)

        return {
            str(i): stacked.of_each_layer(block, remember) for i, block in enumerate(self.blocks)
        }
