import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.nn import (
    Decoder,
    Sampling,
    TokenEncoder,
    TransformerConfig,
    continue_rows,
    generate,
    most_probable,
)
from relpos.nn.rows import row_batches


def lively(kind):
    """A model whose tokens depend on what it reads."""
    sizes = TransformerConfig(num_layers=2, features=16, num_heads=2)
    graphdef, state = nnx.split(kind(sizes, vocab_size=11, rngs=nnx.Rngs(0)))
    random = np.random.default_rng(0)
    return nnx.merge(
        graphdef,
        jax.tree.map(lambda x: x + jnp.asarray(random.normal(size=x.shape), x.dtype), state),
    )


def rows(count, longest, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 11, n).tolist() for n in random.integers(1, longest, count)]


@pytest.mark.parametrize("lengths", [[1], [64, 65, 3], [5] * 7, [5] * 64, [5] * 9, [9000, 5]])
def test_every_row_is_in_a_batch_of_a_length_that_is_its_own(lengths):
    asked = [[1 + n % 7] * length for n, length in enumerate(lengths)]
    found = {}
    for batch in row_batches(asked, max_length=None, more=3):
        B, T = batch.tokens.shape
        assert B in (1, 4, 16, 64)
        assert (1 << (T - 1).bit_length()) == T
        for number, tokens, length in zip(*batch, strict=True):
            assert tokens[:length].tolist() == asked[number]
            assert not tokens[length:].any()
            assert T == 64 or 2 * length > T
            found[int(number)] = T
    assert sorted(found) == list(range(len(lengths)))


def test_many_rows_take_few_programs_and_few_calls():
    batches = list(row_batches(rows(10_000, 60), max_length=None, more=8))
    assert len(batches) == 157
    assert len({batch.tokens.shape for batch in batches}) <= 2


def test_memory_is_bounded_and_so_is_a_models_length():
    sizes = [b.tokens.shape for b in row_batches([[1] * 2000] * 9, max_length=None, more=10_000)]
    assert sizes == [(1, 2048)] * 9
    ((B, T),) = (b.tokens.shape for b in row_batches([[1] * 40] * 5, max_length=60, more=17))
    assert (B, T) == (16, 43)


def test_what_a_row_gives_does_not_depend_on_the_others():
    model, asked = lively(Decoder), rows(20, 70)
    how = {
        "max_new_tokens": 12, "stop": 0, "key": jax.random.key(3), "sampling": Sampling(0.8, top_p=0.9)
    }  # fmt: skip
    found = continue_rows(model, asked, **how)
    again = continue_rows(model, asked[12:], first=12, **how)
    assert [row.tolist() for row in again] == [row.tolist() for row in found[12:]]
    for number in (0, 13, 19):
        (alone,) = continue_rows(model, [asked[number]], first=number, **how)
        assert alone.tolist() == found[number].tolist()
    assert len({tuple(row) for row in found}) > 10
    assert len({len(row) for row in found}) > 3
    # Two rows that are alike draw each for itself.
    one, other = continue_rows(model, [asked[0]] * 2, **how)
    assert one.tolist() != other.tolist()


def test_one_key_gives_each_row_its_own():
    model = lively(Decoder)
    tokens, counts = generate(
        model, jnp.full((4, 3), 5), jnp.full((4,), 3), max_new_tokens=9, stop=99,
        sampling=Sampling(), key=jax.random.key(0),
    )  # fmt: skip
    assert counts.tolist() == [9] * 4
    assert len({tuple(row) for row in tokens.tolist()}) == 4


def test_the_most_probable_symbols_of_rows():
    model = lively(TokenEncoder)
    allowed = jnp.arange(11) != 4
    asked = [*rows(3, 60), rows(1, 2)[0] * 65]
    for given in (None, allowed):
        for row, best in zip(asked, most_probable(model, asked, given), strict=True):
            logits = np.array(model(jnp.asarray([row]))[0])
            logits[:, 4] -= np.inf if given is not None else 0
            assert best.tolist() == logits.argmax(-1).tolist()
    assert most_probable(model, []) == []
