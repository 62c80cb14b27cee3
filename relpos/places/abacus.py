"""Digits are told where in their number they stand."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from relpos.places.base import Placed, Places, are_tokens


@dataclasses.dataclass(frozen=True)
class Abacus(Places):
    """x_t + P[c_t],  c_t = k + 1, k + 2, ... for the digits of each number from its first on, 0 for other tokens.

    McLeish et al. 2024, "Transformers Can Do Arithmetic with the Right Embeddings", arXiv:2405.17399, sec. 3 and
    appendix. P is the table of the scheme `learned`, added to the input; attention keeps consecutive positions and a
    scheme of its own. In training k is drawn from 0 ... max_offset for each batch, so that the rows of longer numbers
    are trained too; at test it is 0. Digits of one significance meet only where numbers are written from their lowest
    digit on, as in the paper.

    Attributes:
      max_offset: the greatest k; 99 in the authors' code.
      digits: the ids of the tokens that are digits.
    """

    max_offset: int = 99
    digits: tuple[int, ...] = ()

    embeds: ClassVar[str] = "learned"

    def __post_init__(self):
        if not 0 <= self.max_offset <= 2**20:
            raise ValueError(f"abacus.max_offset must be from 0 to {2**20}, got {self.max_offset}")

    def begin(self, tokens_BT, segments_BT=None, *, key=None, more=0):  # noqa: D102
        if segments_BT is None:
            segments_BT = jnp.ones(tokens_BT.shape, jnp.int32)
        ids_BT, run_B = self._counted(tokens_BT, segments_BT, jnp.zeros_like(tokens_BT[:, 0]))
        if key is not None:
            offset = jax.random.randint(key, (), 0, self.max_offset + 1)
            ids_BT = jnp.where(ids_BT > 0, ids_BT + offset, 0)
        return Placed(embed_positions=ids_BT), run_B

    def follow(self, state, tokens_BT):  # noqa: D102
        ids_BT, run_B = self._counted(tokens_BT, jnp.ones_like(tokens_BT), state)
        return Placed(embed_positions=ids_BT), run_B

    def _counted(self, tokens_BT, segments_BT, run_B):
        """Count each number's digits from 1; run_B: how many digits stand right before each row."""
        index_1T = jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None]
        valid_BT = are_tokens(tokens_BT, segments_BT)
        digit_BT = valid_BT & jnp.isin(tokens_BT, jnp.array(self.digits, tokens_BT.dtype))
        beside_BT = digit_BT[:, :-1] & (segments_BT[:, 1:] == segments_BT[:, :-1])
        goes_on_BT = digit_BT & jnp.concatenate([run_B[:, None] > 0, beside_BT], 1)
        # Where the number began; -1: before the row.
        start_BT = jax.lax.cummax(jnp.where(goes_on_BT, -1, index_1T), axis=1)
        ids_BT = index_1T - start_BT + jnp.where(start_BT < 0, run_B[:, None], 1)
        ids_BT = jnp.where(digit_BT, ids_BT, 0)
        last_B = jnp.where(valid_BT, index_1T, -1).max(1)
        run_of_last_B = jnp.take_along_axis(ids_BT, jnp.maximum(last_B, 0)[:, None], 1)[:, 0]
        return ids_BT, jnp.where(last_B < 0, run_B, run_of_last_B)
