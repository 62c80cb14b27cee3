"""Blocks whose parameters are stacked, one block for each layer of the pattern that repeats."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

from relpos.nn import layer_encodings
from relpos.nn.block import Block

FEW_LAYERS = 8  # so few compile as fast unrolled; a loop would copy what it carries


def split(block: Block) -> tuple[Any, Any, Any]:
    """Return (graphdef, the state that all layers share, the state that each layer has)."""
    graphdef, shared, own = nnx.split(block, layer_encodings.is_shared_by_layers, ...)  # type: ignore[misc]
    return graphdef, shared, own


def of_each_layer(block: Block, compute: Callable[[Block], Any]) -> Any:
    """Return what `compute` returns for each layer of a block, stacked."""
    graphdef, shared, states = split(block)
    return jax.vmap(lambda own: compute(nnx.merge(graphdef, shared, own)))(states)


def apart(blocks: Sequence[Block], groups: int) -> list[Block]:
    """Return a block for each layer, in the order of the layers."""
    apart = []
    for number in range(groups):
        for block in blocks:
            graphdef, shared, own = split(block)
            one = jax.tree.map(lambda x, n=number: x[n : n + 1], own)
            apart.append(nnx.merge(graphdef, shared, one))
    return apart


def run(
    blocks: Sequence[Block],
    groups: int,
    one: Callable[..., tuple[Array, Any]],
    x_BTD: Array,
    *,
    keys: Array | None = None,
    carried: tuple[Any, ...] | None = None,
    memories: dict[str, Any] | None = None,
    in_a_loop: bool = True,
) -> tuple[Array, tuple[Any, ...]]:
    """Run the layers of a pattern that repeats; `one` runs one: (block, x, key, carried, memory) -> (x, new carried).

    `keys` are random, [groups, blocks]. `carried`, what each layer keeps from call to call, and `memories`, what it
    reads besides x, are stacked for each block; `memories` is a dict by the block's number. Unless `in_a_loop`,
    `carried` has an entry for each layer instead.
    """
    graphs, shared, states = zip(*map(split, blocks), strict=True)

    def group(x, inputs):
        states, keys, carried, memories = inputs
        grown = []
        for i, (graph, of_all, own) in enumerate(zip(graphs, shared, states, strict=True)):
            x, more = one(
                nnx.merge(graph, of_all, own),
                x,
                None if keys is None else keys[i],
                None if carried is None else carried[i],
                None if memories is None else memories[str(i)],
            )
            grown.append(more)
        return x, tuple(grown)

    if in_a_loop:
        unroll = groups if groups * len(graphs) <= FEW_LAYERS else 2
        return jax.lax.scan(group, x_BTD, (states, keys, carried, memories), unroll=unroll)
    grown: tuple[Any, ...] = ()
    for number in range(groups):
        own, key, memory = jax.tree.map(lambda x, n=number: x[n], (states, keys, memories))
        kept = carried and carried[number * len(graphs) : (number + 1) * len(graphs)]
        x_BTD, more = group(x_BTD, (own, key, kept, memory))
        grown += more
    return x_BTD, grown
