"""What a model makes of rows of tokens, each of its own length, in batches of one padded length.

Lengths are powers of two and numbers of rows one of four, so that few programs are compiled. A row's padded length
depends on the row alone: what the model makes of it does not depend on the others.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool

from relpos import cores
from relpos.nn.decoder import Decoder
from relpos.nn.encoder import TokenEncoder
from relpos.nn.generate import Sampling, check_new_tokens, continued

Row = Sequence[int] | np.ndarray

_ROWS = (1, 4, 16, 64)
_LEAST_TOKENS = 64
_MOST_READ = 1 << 13  # tokens of a batch, unless one row has more: each has its logits
_MOST_CACHED = 1 << 15  # with those to come


class RowBatch(NamedTuple):
    """Rows of one padded length; copies of its first fill a batch up.

    Attributes:
      numbers: which row each is, int64 [B].
      tokens: zeros behind each row's, int32 [B, T].
      lengths: how many tokens each row has, int32 [B].
    """

    numbers: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray


def row_batches(
    rows: Sequence[Row], *, max_length: int | None, more: int = 0
) -> Iterator[RowBatch]:
    """Yield all rows, those of the least padded length first.

    Args:
      rows: tokens, at least one each.
      max_length: of the model, which the padded rows and what comes behind them stay within; None: no limit.
      more: tokens that the model will add to each row.
    """
    groups: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_padded(len(row), max_length, more), []).append(number)
    for T, numbers in sorted(groups.items()):
        room = max(1, min(_MOST_READ // T, _MOST_CACHED // (T + more)))
        most = max(count for count in _ROWS if count <= room)
        for start in range(0, len(numbers), most):
            some = numbers[start : start + most]
            count = min(count for count in _ROWS if count >= len(some))
            some += (count - len(some)) * some[:1]
            tokens = np.zeros((len(some), T), np.int32)
            for place, number in enumerate(some):
                tokens[place, : len(rows[number])] = rows[number]
            lengths = np.array([len(rows[number]) for number in some], np.int32)
            yield RowBatch(np.array(some), tokens, lengths)


def _padded(length: int, max_length: int | None, more: int) -> int:
    room = max(_LEAST_TOKENS, 1 << (length - 1).bit_length())
    return room if max_length is None else min(room, max_length - more)


def continue_rows(
    model: Decoder,
    rows: Sequence[Row],
    *,
    max_new_tokens: int,
    stop: int,
    sampling: Sampling,
    key: Array,
    first: int = 0,
) -> list[np.ndarray]:
    """Return the new tokens of each row, as `generate` finds them.

    Args:
      model: a decoder.
      rows: the prompts, which must fit the model together with max_new_tokens.
      max_new_tokens: at most.
      stop: the token that ends a continuation; it is not part of it.
      sampling: how tokens are chosen.
      key: a random key; a row's draws depend on it and on the row's number only.
      first: the number of the first row.
    """
    check_new_tokens(max_new_tokens)
    graphdef, state = nnx.split(model)
    static = (graphdef, max_new_tokens, stop, sampling)
    found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(rows)
    for batch in row_batches(rows, max_length=model.max_length, more=max_new_tokens):
        keys = _keys(key, jnp.asarray(first + batch.numbers, jnp.uint32))
        asked = {"prompts": batch.tokens, "lengths": batch.lengths, "keys": keys}
        tokens, counts = cores.by_rows(continued, static, state, asked)
        for number, ids, count in zip(
            batch.numbers, np.asarray(tokens), np.asarray(counts), strict=True
        ):
            found[number] = ids[:count]
    return found


def most_probable(
    model: TokenEncoder, rows: Sequence[Row], allowed_V: Bool[Array, "V"] | None = None
) -> list[np.ndarray]:
    """Return the most probable symbol at each place of each row.

    Args:
      model: an encoder.
      rows: tokens, which must fit the model.
      allowed_V: which symbols may be; None: all.
    """
    graphdef, state = nnx.split(model)
    found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(rows)
    for batch in row_batches(rows, max_length=model.max_length):
        asked = {"tokens": batch.tokens, "lengths": batch.lengths}
        best_BT = cores.by_rows(_best, (graphdef,), (state, allowed_V), asked)
        for number, best_T in zip(batch.numbers, np.asarray(best_BT), strict=True):
            found[number] = best_T[: len(rows[number])]
    return found


_keys = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))


def _best(graphdef, state, asked):
    tokens_BT, lengths_B = asked["tokens"], asked["lengths"]
    state, allowed_V = state
    segments_BT = (jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
    logits_BTV = nnx.merge(graphdef, state)(tokens_BT, segments=segments_BT)
    if allowed_V is not None:
        logits_BTV = jnp.where(allowed_V, logits_BTV, -jnp.inf)
    return logits_BTV.argmax(-1)
