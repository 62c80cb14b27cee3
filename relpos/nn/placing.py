"""How models come by the places of their tokens: given in the call, or by their `relpos.places.Places`."""

from typing import Any

import jax
from jaxtyping import Array, Int

from relpos.nn.stack import Stack
from relpos.places import Placed, Places

_STREAM = 0x706C6163  # of random numbers, apart from dropout's


def longest(stack: Stack, places: Places) -> int | None:
    """Return how many tokens a row may have; None: any number.

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
    places: Places,
    given: Placed,
    tokens_BT: Int[Array, "B T"],
    segments_BT: Any,
    caches: Any = None,
    key: Array | None = None,
) -> dict[str, Any]:
    """Return the stack's arguments positions, order and embed_positions: what is given, else what `places` says.

    Raises:
      ValueError: beside caches nothing is given, and `places` would have to know the tokens in them.
    """
    if any(x is not None for x in given) or places.are_consecutive:
        return given._asdict()
    if caches is not None:
        raise ValueError(
            f"{type(places).__name__} places tokens by those before them, which a cache or an earlier segment "
            "does not tell: give the positions as its `begin` and `follow` return them, as relpos.nn.generate does"
        )
    of_places = None if key is None else jax.random.fold_in(key, _STREAM)
    return places.begin(tokens_BT, segments_BT, key=of_places)[0]._asdict()
