"""The base class of position transforms."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from relpos.positions import contiguous, within_segments

MOST = 2**20


class Placed(NamedTuple):
    """The positions of tokens, as models take them; None: the model's default.

    Attributes:
      positions: [B, T] or [B, T, axes], for attention.
      order: [B, T], which defines causality and windows.
      embed_positions: [B, T], for the positions added to the input.
    """

    positions: Any = None
    order: Any = None
    embed_positions: Any = None


@dataclasses.dataclass(frozen=True)
class Places:
    """Consecutive positions: each token's index in its segment. A subclass gives other positions.

    A position transform is one file with one frozen dataclass, whose fields are its options. It is separate from
    encodings, so that it can be used with any of them.

    Attributes:
      embeds: the scheme whose vectors are added to the input at `embed_positions`; "": none.
    """

    embeds: ClassVar[str] = ""

    @property
    def most(self) -> int | None:
        """The largest number of tokens in a row; None: no limit."""
        return None

    @property
    def largest(self) -> int | None:
        """The largest of `positions`; None: not known."""
        return None

    @property
    def largest_embedded(self) -> int | None:
        """The largest embedded position drawn for any row; longer numbers may exceed it; None: not known."""
        return None

    @property
    def are_consecutive(self) -> bool:
        """Whether positions are the model's default."""
        return type(self) is Places

    def begin(
        self,
        tokens_BT: Int[Array, "B T"],
        segments_BT: Int[Array, "B T"] | None = None,
        *,
        key: Array | None = None,
        more: int = 0,
    ) -> tuple[Placed, Any]:
        """Return the positions of the first tokens of rows.

        Args:
          tokens_BT: token ids.
          segments_BT: ids of packed documents, 0 is padding; None: one segment.
          key: a random key, in training; None: draws are the same in each call.
          more: the number of tokens that will follow in each row.

        Returns:
          The positions, and the state for `follow`.
        """
        return Placed(), ()

    def follow(self, state: Any, tokens_BT: Int[Array, "B T"]) -> tuple[Placed, Any]:
        """Return the positions of the following tokens, and the next state, of the same shapes."""
        return Placed(), state


def are_tokens(tokens_BT: Array, segments_BT: Array | None) -> Bool[Array, "B T"]:
    """Return which entries are tokens rather than padding."""
    return jnp.ones(tokens_BT.shape, bool) if segments_BT is None else segments_BT != 0


def numbered(
    tokens_BT: Array, segments_BT: Array | None
) -> tuple[Int[Array, "B T"], Int[Array, "B"]]:
    """Return each token's index in its segment, and the index of the token after each row's last."""
    if segments_BT is None:
        index_BT = jnp.broadcast_to(contiguous(tokens_BT.shape[1]), tokens_BT.shape)
    else:
        index_BT = within_segments(segments_BT)
    return index_BT, of_last(index_BT + 1, are_tokens(tokens_BT, segments_BT), 0)


def of_last(x_BT: Array, valid_BT: Bool[Array, "B T"], otherwise: Any) -> Array:
    """Return the value at each row's last token, [B]; `otherwise` for a row without tokens."""
    last_B = jnp.where(valid_BT, contiguous(x_BT.shape[1])[None], -1).max(1)
    found_B = jnp.take_along_axis(x_BT, jnp.maximum(last_B, 0)[:, None], 1)[:, 0]
    return jnp.where(last_B < 0, otherwise, found_B)


def count_digits(
    digits: tuple[int, ...],
    tokens_BT: Int[Array, "B T"],
    segments_BT: Int[Array, "B T"] | None = None,
    run_B: Int[Array, "B"] | int = 0,
) -> tuple[Int[Array, "B T"], Int[Array, "B"]]:
    """Count each number's digits 1, 2, ... from its first; other tokens get 0. `digits`: the ids of digits.

    `run_B` is the number of digits directly before each row; that before the next row is returned second.
    """
    if segments_BT is None:
        segments_BT = jnp.ones(tokens_BT.shape, jnp.int32)
    run_B = jnp.broadcast_to(run_B, tokens_BT.shape[:1]).astype(jnp.int32)
    index_1T = contiguous(tokens_BT.shape[1])[None]
    valid_BT = are_tokens(tokens_BT, segments_BT)
    digit_BT = valid_BT & jnp.isin(tokens_BT, jnp.array(digits, tokens_BT.dtype))
    beside_BT = digit_BT[:, :-1] & (segments_BT[:, 1:] == segments_BT[:, :-1])
    goes_on_BT = digit_BT & jnp.concatenate([run_B[:, None] > 0, beside_BT], 1)
    # Where the number began; -1: before the row.
    start_BT = jax.lax.cummax(jnp.where(goes_on_BT, -1, index_1T), axis=1)
    counts_BT = index_1T - start_BT + jnp.where(start_BT < 0, run_B[:, None], 1)
    counts_BT = jnp.where(digit_BT, counts_BT, 0)
    return counts_BT, of_last(counts_BT, valid_BT, run_B)
