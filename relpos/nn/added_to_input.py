"""What encodings such as sinusoids add to a model's input, before the first layer."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from relpos.attention.checks import check_places, checked_number
from relpos.encodings import Encoding
from relpos.sharding import left_to_the_compiler


def add_to_input(
    x_BTD: Float[Array, "B T D"],
    of_layers: Sequence[Encoding],
    beside: Encoding | None,
    places_BT: Array,
    embed_positions: Any,
) -> Float[Array, "B T D"]:
    """Return the input with all that is added to it: by the encodings that the layers name, and by one beside them.

    Other `embed_positions` are for the encoding beside alone, or without it for all.
    """
    added = places_BT
    if embed_positions is not None:
        added = checked_number("embed_positions", embed_positions, x_BTD.shape[:2], with_axes=True)
    for encoding in of_layers:
        x_BTD = _added(encoding, x_BTD, added if beside is None else places_BT)
    return x_BTD if beside is None else _added(beside, x_BTD, added)


def check_counted_on(
    of_layers: Sequence[Encoding], beside: Encoding | None, embed_positions: Any
) -> None:
    """Check that positions added to a segment of a text are given: counted anew, they would contradict earlier ones."""
    added = [*of_layers, *(() if beside is None else (beside,))]
    if embed_positions is not None:
        added = [] if beside is None else list(of_layers)
    if added:
        names = ", ".join(type(encoding).__name__ for encoding in added)
        raise ValueError(
            f"{names} adds positions to the input, and the tokens of an earlier segment were given theirs from its own "
            "start: choose a relative scheme, or pass embed_positions that count on through the text"
        )


def _added(encoding: Encoding, x_BTD, places_BT):
    if not encoding.adds_to_input():
        return x_BTD
    check_places(encoding, places_BT)
    graphdef, state = nnx.split(encoding)
    embed = left_to_the_compiler(_embed, (graphdef,), x_BTD, 0, 1)
    return embed(state, x_BTD, places_BT)


def _embed(graphdef, state, x_BTD, places_BT):
    return jax.vmap(nnx.merge(graphdef, state).embed)(x_BTD, places_BT)
