"""Sorted random positions, so that training covers the positions of longer rows."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from relpos.places.base import MOST, Placed, Places, are_tokens
from relpos.registry import check_range


class _Drawn(NamedTuple):
    counts: Array  # [B, max_length], the number of drawn positions up to each one
    seen: Array  # [B], the number of tokens so far


@dataclasses.dataclass(frozen=True)
class Randomized(Places):
    """position of token i = i-th smallest of n numbers drawn from 0 ... max_length - 1 without replacement.

    Ruoss et al. 2023, "Randomized Positional Encodings Boost Length Generalization of Transformers", arXiv:2305.16843,
    sec. 3. n is the number of the row's tokens, without padding, but including those to come; documents packed into a
    row share its draw. In training there is one draw for each batch, for all its rows (the paper's code draws again in
    each layer if the encoding is relative); at test there is one draw for each n, so that scores do not change from
    call to call. Causality and windows use the tokens' order.

    Choose it to train on short rows and read long ones, with a relative scheme: the paper reports gains on algorithmic
    tasks.

    Choose another where exact offsets matter, because neighbours may be any distance apart, and for rows longer than
    `max_length`.
    """

    max_length: int = 2048

    def __post_init__(self):
        check_range("randomized.max_length", self.max_length, 1, MOST)

    @property
    def most(self) -> int:  # noqa: D102
        return self.max_length

    @property
    def largest(self) -> int:  # noqa: D102
        return self.max_length - 1

    def begin(self, tokens_BT, segments_BT=None, *, key=None, more=0):  # noqa: D102
        if tokens_BT.shape[1] + more > self.max_length:
            raise ValueError(
                f"{tokens_BT.shape[1] + more} tokens are more than the {self.max_length} positions that randomized "
                "draws from: raise randomized.max_length"
            )
        valid_BT = are_tokens(tokens_BT, segments_BT)
        # For every n, the first n entries of one permutation are a draw of n positions.
        key = jax.random.key(0) if key is None else key
        turn_L = jax.random.permutation(key, self.max_length)
        drawn_BL = turn_L[None] < valid_BT.sum(1, keepdims=True) + more
        counts_BL = jnp.cumsum(drawn_BL, axis=1, dtype=jnp.int32)
        none_B = jnp.zeros(tokens_BT.shape[:1], jnp.int32)
        return self._next(_Drawn(counts_BL, none_B), valid_BT)

    def follow(self, state, tokens_BT):  # noqa: D102
        return self._next(state, jnp.ones(tokens_BT.shape, bool))

    def _next(self, state: _Drawn, valid_BT) -> tuple[Placed, _Drawn]:
        number_BT = state.seen[:, None] + jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32)
        places_BT: Int[Array, "B T"] = jax.vmap(jnp.searchsorted)(state.counts, number_BT)
        places_BT = jnp.minimum(places_BT, self.max_length - 1)  # if more tokens come than `more`
        placed = Placed(positions=places_BT.astype(jnp.int32), order=number_BT)
        return placed, state._replace(seen=number_BT[:, -1])
