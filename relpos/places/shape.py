"""Absolute positions with a random start, so that only their differences can be learned."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from relpos.places.base import MOST, Placed, Places, numbered
from relpos.registry import check_range


@dataclasses.dataclass(frozen=True)
class Shape(Places):
    """x_t + PE(t + k),  k drawn from 0 ... max_shift for each row.

    Kiyono et al. 2021, "SHAPE: Shifted Absolute Position Embedding for Transformers", arXiv:2109.05644, sec. 3. PE is
    the scheme `sinusoidal`, added to the input; attention keeps consecutive positions and its own scheme, in the paper
    `none`. Documents packed into a row share its k. At test k is max_shift, as in the authors' code.

    Choose it to make absolute positions nearly relative at no cost in attention: in the paper, translations are as good
    as with relative positions.

    Choose another beside a relative scheme, which is shift-invariant already.

    Attributes:
      max_shift: the largest k; 500 in the paper.
    """

    max_shift: int = 500

    embeds: ClassVar[str] = "sinusoidal"

    def __post_init__(self):
        check_range("shape.max_shift", self.max_shift, 0, MOST)

    def begin(self, tokens_BT, segments_BT=None, *, key=None, more=0):  # noqa: D102
        index_BT, next_B = numbered(tokens_BT, segments_BT)
        shift_B = jnp.full_like(next_B, self.max_shift)
        if key is not None:
            shift_B = jax.random.randint(key, next_B.shape, 0, self.max_shift + 1)
        return Placed(embed_positions=index_BT + shift_B[:, None]), next_B + shift_B

    def follow(self, state, tokens_BT):  # noqa: D102
        index_BT, next_B = numbered(tokens_BT, None)
        return Placed(embed_positions=index_BT + state[:, None]), next_B + state
