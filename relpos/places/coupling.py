"""Learned vectors that digits of the same place value share, in all numbers of a row."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from relpos.places.base import MOST, Placed, Places, are_tokens, count_digits
from relpos.registry import check_range


@dataclasses.dataclass(frozen=True)
class Coupling(Places):
    """x_t + P[k + c_t],  c_t = 1, 2, ... for the digits of each number from its lowest on, 0 for other tokens.

    Cho et al. 2024, "Position Coupling: Improving Length Generalization of Arithmetic Transformers Using Task
    Structure", arXiv:2405.20671, sec. 3, addition as in the authors' code. P is the table of the scheme `learned`,
    added to the input; attention keeps consecutive positions and its own scheme, in the paper `none`. In training k is
    drawn for each row, from 1 up to the value that places the end of the row's longest number at max_position; at test
    it is 1. All numbers must be written with the lowest digit first, the code's "reverse_input": otherwise place values
    are not known before a number ends. Unlike in `abacus`, tokens between numbers are at k, and each row has its own k.

    Choose it for sums of long numbers if it is known which digits belong together: the paper trains on 30 digits and
    adds numbers of 200.

    Choose another if the task's structure is not known, and for numbers that are written with the highest digit first.

    Attributes:
      max_position: the largest k + c_t in training; 132 in the authors' configuration.
      digits: the ids of the tokens that are digits.
    """

    max_position: int = 132
    digits: tuple[int, ...] = ()

    embeds: ClassVar[str] = "learned"

    def __post_init__(self):
        check_range("coupling.max_position", self.max_position, 1, MOST)

    @property
    def largest_embedded(self) -> int:  # noqa: D102
        return self.max_position

    def begin(self, tokens_BT, segments_BT=None, *, key=None, more=0):  # noqa: D102
        counts_BT, run_B = count_digits(self.digits, tokens_BT, segments_BT)
        start_B = jnp.ones_like(run_B)
        if key is not None:
            last_B = jnp.maximum(self.max_position - counts_BT.max(1), 1)
            start_B = jax.random.randint(key, run_B.shape, 1, last_B + 1)
        ids_BT = jnp.where(are_tokens(tokens_BT, segments_BT), start_B[:, None] + counts_BT, 0)
        return Placed(embed_positions=ids_BT), (run_B, start_B)

    def follow(self, state, tokens_BT):  # noqa: D102
        run_B, start_B = state
        counts_BT, run_B = count_digits(self.digits, tokens_BT, run_B=run_B)
        return Placed(embed_positions=start_B[:, None] + counts_BT), (run_B, start_B)
