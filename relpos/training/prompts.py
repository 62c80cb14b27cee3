"""Continuation of prompts by a causal language model."""

import logging
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from relpos.data import tokenizers
from relpos.errors import UserError
from relpos.nn import Decoder, Sampling, continue_rows

_log = logging.getLogger(__name__)


def continuations(
    model: Decoder,
    tokenizer: tokenizers.Bytes | tokenizers.SentencePiece,
    chunks: Iterable[Sequence[bytes]],
    *,
    sampling: Sampling,
    max_tokens: int,
    seed: int,
    context: int,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield each prompt and its continuation, which does not depend on other prompts.

    Args:
      model: a trained model.
      tokenizer: the model's tokenizer.
      chunks: prompts; each chunk is one batch.
      sampling: sampling settings.
      max_tokens: maximum tokens per continuation.
      seed: random seed; draws depend on it and on the index of the prompt.
      context: maximum tokens of a prompt; of longer prompts only the last ones are read.

    Raises:
      UserError: a prompt and max_tokens do not fit the model. All prompts before it have been continued.
    """
    key = jax.random.key(seed)
    first, told = 0, False
    for chunk in chunks:
        rows, fault = [], None
        for number, prompt in enumerate(chunk, first + 1):
            ids = np.concatenate([[tokenizer.separator], tokenizer.encode(prompt)])
            kept = ids[-context:]
            if model.max_length is not None and len(kept) + max_tokens > model.max_length:
                fault = UserError(
                    f"prompt {number} ({len(kept)} tokens) and {max_tokens} more do not fit the "
                    f"{model.max_length} positions of {', '.join(model.config.encodings)}: "
                    "--context=N reads fewer of its last tokens"
                )
                break
            if len(ids) > context and not told:
                told = True
                _log.warning(
                    "prompt %d has %d tokens; only its last %d are read; --context=N changes that number",
                    number, len(ids), context,
                )  # fmt: skip
            rows.append(kept)
        found = continue_rows(
            model, rows, max_new_tokens=max_tokens, stop=tokenizer.separator,
            sampling=sampling, key=key, first=first,
        )  # fmt: skip
        for prompt, new in zip(chunk, found, strict=False):  # up to the first that does not fit
            yield prompt, tokenizer.decode(new)
        if fault is not None:
            raise fault
        first += len(chunk)
