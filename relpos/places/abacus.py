"""Learned vectors for the place of each digit in its number."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from relpos.places.base import MOST, Placed, Places, count_digits
from relpos.registry import check_range


@dataclasses.dataclass(frozen=True)
class Abacus(Places):
    """x_t + P[c_t],  c_t = k + 1, k + 2, ... for the digits of each number from its first on, 0 for other tokens.

    McLeish et al. 2024, "Transformers Can Do Arithmetic with the Right Embeddings", arXiv:2405.17399, sec. 3 and
    appendix. P is the table of the scheme `learned`, added to the input; attention keeps consecutive positions and its
    own scheme. In training k is drawn from 0 ... max_offset for each batch, so that the vectors that longer numbers
    need are trained too; at test it is 0. Digits of equal place value get the same vector only if numbers are written
    with the lowest digit first, as in the paper.

    Choose it for sums of long numbers: the paper trains on numbers of 20 digits and adds those of 100.

    Choose another for text without numbers, and for numbers that are written with the highest digit first.

    Attributes:
      max_offset: the largest k; 99 in the authors' code.
      digits: the ids of the tokens that are digits.
    """

    max_offset: int = 99
    digits: tuple[int, ...] = ()

    embeds: ClassVar[str] = "learned"

    def __post_init__(self):
        check_range("abacus.max_offset", self.max_offset, 0, MOST)

    @property
    def largest_embedded(self) -> int:  # noqa: D102
        return self.max_offset + 1

    def begin(self, tokens_BT, segments_BT=None, *, key=None, more=0):  # noqa: D102
        ids_BT, run_B = count_digits(self.digits, tokens_BT, segments_BT)
        if key is not None:
            offset = jax.random.randint(key, (), 0, self.max_offset + 1)
            ids_BT = jnp.where(ids_BT > 0, ids_BT + offset, 0)
        return Placed(embed_positions=ids_BT), run_B

    def follow(self, state, tokens_BT):  # noqa: D102
        ids_BT, run_B = count_digits(self.digits, tokens_BT, run_B=state)
        return Placed(embed_positions=ids_BT), run_B
