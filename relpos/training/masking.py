"""Inputs and targets of language models: next tokens or masked tokens."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

CHOSEN, MASKED, REPLACED = 0.15, 0.8, 0.1


class ObjectiveInputs(NamedTuple):
    """The inputs and targets of a batch.

    Attributes:
      inputs: token ids [B, T].
      targets: the target at each position [B, T].
      weights: 1.0 where the target counts, else 0.0 [B, T].
      key: random key for dropout, or None for evaluation.
    """

    inputs: jax.Array
    targets: jax.Array
    weights: jax.Array
    key: jax.Array | None


Objective = Callable[[Mapping[str, Any], jax.Array | None], ObjectiveInputs]


def next_tokens(batch: Mapping[str, Any], key: jax.Array | None) -> ObjectiveInputs:
    """Make every token a target, predicted from the tokens before it."""
    weights = (batch["segments"] > 0).astype(jnp.float32)
    return ObjectiveInputs(batch["inputs"], batch["targets"], weights, key)


@dataclasses.dataclass(frozen=True)
class Masking:
    """Selects 15% of the tokens as targets, never the end of a document.

    Of these, 80% are replaced by a mask symbol, 10% by a random token, and 10% are kept: Devlin et al. 2019,
    arXiv:1810.04805, sec. 3.1.

    Attributes:
      mask: the mask symbol's id, different from all token ids.
      separator: the id that ends a document.
      vocab_size: number of tokens, without the mask symbol.
    """

    mask: int
    separator: int
    vocab_size: int

    def __call__(self, batch: Mapping[str, Any], key: jax.Array | None) -> ObjectiveInputs:
        """Mask some tokens of a batch.

        Args:
          batch: `targets`, with every token of a document in one window only, and `segments`; [B, T].
          key: random key. None, for evaluation, derives a key from the content of each row.
        """
        tokens_BT = batch["targets"]
        if key is None:
            keys, dropout_key = jax.vmap(_content_key)(tokens_BT), None
        else:
            key, dropout_key = jax.random.split(key)
            keys = jax.random.split(key, len(tokens_BT))
        inputs_BT, chosen_BT = jax.vmap(self._row)(tokens_BT, batch["segments"], keys)
        return ObjectiveInputs(inputs_BT, tokens_BT, chosen_BT.astype(jnp.float32), dropout_key)

    def _row(self, tokens_T, segments_T, key):
        choice_key, random_key = jax.random.split(key)
        may_T = (segments_T > 0) & (tokens_T != self.separator)
        draw_T = jax.random.uniform(choice_key, tokens_T.shape) / CHOSEN
        random_T = jax.random.randint(random_key, tokens_T.shape, 0, self.vocab_size)
        shown_T = jnp.where(draw_T < MASKED + REPLACED, random_T, tokens_T)
        shown_T = jnp.where(draw_T < MASKED, self.mask, shown_T)
        chosen_T = may_T & (draw_T < 1)
        return jnp.where(chosen_T, shown_T, tokens_T), chosen_T


def _content_key(tokens_T: jax.Array) -> jax.Array:
    """Derive a key from the tokens."""
    zero = jax.random.key(0)
    weights_T = jax.random.bits(zero, tokens_T.shape, jnp.uint32)
    return jax.random.fold_in(zero, (weights_T * (tokens_T + 1).astype(jnp.uint32)).sum())
