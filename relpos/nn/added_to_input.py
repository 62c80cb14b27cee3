"""What encodings such as sinusoids add to a model's input, before the first layer."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from relpos.attention.checks import check_positions, checked_number
from relpos.encodings import Encoding
from relpos.sharding import left_to_the_compiler


def add_to_input(
    x_BTD: Float[Array, "B T D"],
    of_layers: Sequence[Encoding],
    beside: Encoding | None,
    positions_BT: Array,
    embed_positions: Any,
) -> Float[Array, "B T D"]:
    """Return the input plus what the layers' encodings and `beside`, one more encoding, add to it."""
    if embed_positions is not None:
        shape = x_BTD.shape[:2]
        embed_positions = checked_number("embed_positions", embed_positions, shape, with_axes=True)
    for encoding, given_BT in _with_given(of_layers, beside, embed_positions):
        at_BT = positions_BT if given_BT is None else given_BT
        check_positions(encoding, at_BT)
        graphdef, state = nnx.split(encoding)
        embed = left_to_the_compiler(_embed, (graphdef,), x_BTD, 0, 1)
        x_BTD = embed(state, x_BTD, at_BT)
    return x_BTD


def check_counted_on(
    of_layers: Sequence[Encoding], beside: Encoding | None, embed_positions: Any
) -> None:
    """Check that positions added to a text's next segment are given: a count from 0 would contradict earlier ones."""
    pairs = _with_given(of_layers, beside, embed_positions)
    names = ", ".join(type(encoding).__name__ for encoding, given in pairs if given is None)
    if names:
        raise ValueError(
            f"{names} adds positions to the input, and the tokens of an earlier segment were given theirs from its own "
            "start: choose a relative scheme, or pass embed_positions that count on through the text"
        )


def _with_given(of_layers, beside, embed_positions) -> list[tuple[Encoding, Any]]:
    """Pair each encoding with the positions given to it, or None.

    They are given to `beside` alone; without it, to all encodings of the layers.
    """
    if beside is None:
        return [(encoding, embed_positions) for encoding in of_layers]
    return [*((encoding, None) for encoding in of_layers), (beside, embed_positions)]


def _embed(graphdef, state, x_BTD, positions_BT):
    return jax.vmap(nnx.merge(graphdef, state).embed)(x_BTD, positions_BT)
