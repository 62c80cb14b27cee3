"""Absolute positions that are shifted, jittered and stretched in training."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from relpos.places.base import MOST, Placed, Places, numbered
from relpos.registry import check_range


class _Drawn(NamedTuple):
    next: Array  # [B], index of the next token
    shift: Array  # [B, 1]
    scale: Array  # [B, 1]


@dataclasses.dataclass(frozen=True)
class Cape(Places):
    """x_t + PE(s (t + k + e_t)),  k, e_t, log s uniform within +-max_shift, +-max_jitter and +-log(max_scale).

    Likhomanenko et al. 2021, "CAPE: Encoding Relative Positions with Continuous Augmented Positional Embeddings",
    arXiv:2106.03143, sec. 3, for sequences, with the paper's numbers for text. In training k and s are drawn for each
    row, whose packed documents share them, and e_t for each token; at test PE(t) is added. PE is the scheme
    `sinusoidal`, added to the input; attention keeps consecutive positions and its own scheme, in the paper `none`.
    Left out: subtracting the mean position, and positions in seconds, as for speech. With a jitter of at most 0.5,
    tokens stay in order.

    Choose it to make absolute positions work for other lengths at no cost in attention: the paper reports gains on
    images, speech and translation.

    Choose another beside a relative scheme, and where exact offsets matter: positions are jittered and stretched in
    training.
    """

    max_shift: float = 5.0
    max_jitter: float = 0.5
    max_scale: float = 1.03

    embeds: ClassVar[str] = "sinusoidal"

    def __post_init__(self):
        check_range("cape.max_shift", self.max_shift, 0, MOST)
        check_range("cape.max_jitter", self.max_jitter, 0, MOST)
        check_range("cape.max_scale", self.max_scale, 1, MOST)

    def begin(self, tokens_BT, segments_BT=None, *, key=None, more=0):  # noqa: D102
        index_BT, next_B = numbered(tokens_BT, segments_BT)
        B, T = tokens_BT.shape
        shapes = (B, 1), (B, T), (B, 1)
        if key is None:
            shift_B1, jitter_BT, log_B1 = map(jnp.zeros, shapes)
        else:
            keys = jax.random.split(key, 3)
            mosts = self.max_shift, self.max_jitter, math.log(self.max_scale)
            shift_B1, jitter_BT, log_B1 = (
                jax.random.uniform(key, shape, minval=-most, maxval=most)
                for key, shape, most in zip(keys, shapes, mosts, strict=True)
            )
        drawn = _Drawn(next_B, shift_B1, jnp.exp(log_B1))
        return self._placed(drawn, index_BT + jitter_BT), drawn

    def follow(self, state, tokens_BT):  # noqa: D102
        index_BT, next_B = numbered(tokens_BT, None)
        placed = self._placed(state, index_BT + state.next[:, None])
        return placed, state._replace(next=state.next + next_B)

    @staticmethod
    def _placed(drawn: _Drawn, at_BT: Array) -> Placed:
        return Placed(embed_positions=(at_BT + drawn.shift) * drawn.scale)
