"""Run a model on rows of tokens of different lengths, in batches of one padded length.

Padded lengths are powers of two, and batches have 1, 4, 16 or 64 rows, so that few programs are compiled. The padded
length of a row depends on that row alone, so its result does not depend on the others.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

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
_MOST_READ = 1 << 13  # tokens of a batch, each of which has logits; a single row may have more
_MOST_CACHED = 1 << 15  # the same, with the tokens that will be added


class RowBatch(NamedTuple):
    """Rows of one padded length. Copies of the first row fill up a batch."""

    numbers: np.ndarray  # of the rows, int64 [B]
    tokens: np.ndarray  # each row, padded with zeros at its end, int32 [B, T]
    lengths: np.ndarray  # of the rows, int32 [B]


def row_batches(
    rows: Sequence[Row], *, max_length: int | None, more: int = 0
) -> Iterator[RowBatch]:
    """Yield all rows, of at least one token each, shortest padded length first.

    A padded row has room for `more` tokens within the model's `max_length`; None: no limit.
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


def _of_each(
    rows: Sequence[Row], run: Callable[[RowBatch], tuple[Any, Any]], **limits: Any
) -> list[np.ndarray]:
    """Return the tokens of each row; `run` returns those of a batch, padded, and their number in each row."""
    found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(rows)
    for batch in row_batches(rows, **limits):
        tokens, counts = map(np.asarray, run(batch))
        for number, ids, count in zip(batch.numbers, tokens, counts, strict=True):
            found[number] = ids[:count]
    return found


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
    """Return the new tokens of each row, without `stop`.

    `max_new_tokens`, `stop` and `sampling` are as in `generate`; each prompt plus `max_new_tokens` must fit the model.
    The draws of row i depend only on `key` and on `first` + i.
    """
    check_new_tokens(max_new_tokens)
    graphdef, state = nnx.split(model)
    static = (graphdef, max_new_tokens, stop, sampling)

    def run(batch: RowBatch) -> Any:
        keys = _keys(key, jnp.asarray(first + batch.numbers, jnp.uint32))
        asked = {"prompts": batch.tokens, "lengths": batch.lengths, "keys": keys}
        return cores.by_rows(continued, static, state, asked)

    return _of_each(rows, run, max_length=model.max_length, more=max_new_tokens)


def most_probable(
    model: TokenEncoder, rows: Sequence[Row], allowed_V: Bool[Array, "V"] | None = None
) -> list[np.ndarray]:
    """Return the most probable of the allowed symbols at each index of each row; `allowed_V` None allows all.

    Each row must fit the model.
    """
    graphdef, state = nnx.split(model)

    def run(batch: RowBatch) -> Any:
        asked = {"tokens": batch.tokens, "lengths": batch.lengths}
        return cores.by_rows(_best, (graphdef,), (state, allowed_V), asked), batch.lengths

    return _of_each(rows, run, max_length=model.max_length)


_keys = jax.jit(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))


def _best(graphdef, state, asked):
    tokens_BT, lengths_B = asked["tokens"], asked["lengths"]
    state, allowed_V = state
    segments_BT = (jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
    logits_BTV = nnx.merge(graphdef, state)(tokens_BT, segments=segments_BT)
    if allowed_V is not None:
        logits_BTV = jnp.where(allowed_V, logits_BTV, -jnp.inf)
    return logits_BTV.argmax(-1)
