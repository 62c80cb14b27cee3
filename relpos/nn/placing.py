"""The positions of a model's tokens: given in the call, or by its `relpos.places.Places`."""

from typing import Any

import jax
from jaxtyping import Array, Int

from relpos.nn.stack import Stack
from relpos.places import Placed, Places

_STREAM = 0x706C6163  # of random numbers, apart from dropout's


def longest(stack: Stack, places: Places) -> int | None:
    """Return the largest number of tokens of a row; None: any.

    Raises:
      ValueError: the encodings have no parameters for the positions.
    """
    most = stack.max_length
    _check_drawn(places.largest, most, ", ".join(map(str, stack.config.encodings)))
    if stack.input_encoding is not None:
        _check_drawn(places.largest_embedded, stack.input_encoding.max_length, places.embeds)
    return min((limit for limit in (most, places.most) if limit is not None), default=None)


def _check_drawn(largest: int | None, most: int | None, whose: str) -> None:
    if most is not None and largest is not None and largest >= most:
        raise ValueError(
            f"positions up to {largest} are drawn, more than the {most} of {whose}: raise its max_length, or draw from "
            "fewer"
        )


def place(
    places: Places, given: Placed, tokens_BT: Int[Array, "B T"], segments_BT: Any, key: Array | None
) -> Placed:
    """Return the positions that a call gives; if it gives none, those that `places` says."""
    if any(x is not None for x in given) or places.are_consecutive:
        return given
    of_places = None if key is None else jax.random.fold_in(key, _STREAM)
    return places.begin(tokens_BT, segments_BT, key=of_places)[0]


def check_given(places: Places, given: Placed) -> None:
    """Check that a call behind earlier tokens gives positions, where `places` would have to know these tokens.

    Raises:
      ValueError: it gives none.
    """
    if all(x is None for x in given) and not places.are_consecutive:
        raise ValueError(
            f"the positions of {type(places).__name__} depend on all tokens of a row, and a cache or an earlier "
            "segment does not hold them: pass the positions that its `begin` and `follow` return, as "
            "relpos.nn.generate does"
        )
