"""What every way to place tokens is."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Placed(NamedTuple):
    """Where tokens stand, as models take it; None: as if nothing were given.

    Attributes:
      positions: [B, T] or [B, T, axes], for attention.
      order: [B, T], what causality and windows go by.
      embed_positions: [B, T], for what is added to the input.
    """

    positions: Any = None
    order: Any = None
    embed_positions: Any = None


@dataclasses.dataclass(frozen=True)
class Places:
    """Consecutive positions: each token's place in its segment. A subclass gives others.

    A way to place tokens is one file with one frozen dataclass; its fields are its options. It is apart from
    encodings, so that any of them may be used with it.

    Attributes:
      embeds: the scheme whose vectors are added to the input at `embed_positions`; "": none.
      most: how many tokens a row may have; None: any number.
      largest: the greatest of `positions`; None: of no account.
    """

    embeds: ClassVar[str] = ""

    @property
    def most(self) -> int | None:
        """How many tokens a row may have."""
        return None

    @property
    def largest(self) -> int | None:
        """The greatest of the positions."""
        return None

    @property
    def are_consecutive(self) -> bool:
        """Whether models need not be told."""
        return type(self) is Places

    def begin(
        self,
        tokens_BT: Int[Array, "B T"],
        segments_BT: Int[Array, "B T"] | None = None,
        *,
        key: Array | None = None,
        more: int = 0,
    ) -> tuple[Placed, Any]:
        """Place the first tokens of rows.

        Args:
          tokens_BT: token ids.
          segments_BT: ids of packed documents, 0 is padding; None: one segment.
          key: a random key, in training; None: whatever is drawn is always the same.
          more: tokens that will follow in each row.

        Returns:
          Where they stand, and the state that `follow` wants.
        """
        return Placed(), ()

    def follow(self, state: Any, tokens_BT: Int[Array, "B T"]) -> tuple[Placed, Any]:
        """Place the tokens after those; the state keeps its shapes."""
        return Placed(), state


def are_tokens(tokens_BT: Array, segments_BT: Array | None) -> Bool[Array, "B T"]:
    """Tell tokens from padding."""
    return jnp.ones(tokens_BT.shape, bool) if segments_BT is None else segments_BT != 0
