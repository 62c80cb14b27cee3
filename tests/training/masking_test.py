import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relpos.training.masking import Masking, next_tokens

MASK, SEPARATOR, VOCABULARY = 13, 11, 13
POSE = Masking(mask=MASK, separator=SEPARATOR, vocab_size=VOCABULARY)


def batch(rows, length, seed=0):
    random = np.random.default_rng(seed)
    segments = np.ones((rows, length), np.int32)
    segments[:, length // 2 :] = 2
    segments[::2, -3:] = 0
    tokens = random.integers(0, VOCABULARY, (rows, length)).astype(np.int32)
    return {"inputs": tokens * 0 + 5, "targets": tokens, "segments": segments}


def test_the_shares_are_those_of_the_paper():
    given = batch(400, 101)
    inputs, targets, weights = map(np.asarray, POSE(given, jax.random.key(0))[:3])
    assert (targets == given["targets"]).all()
    may = (given["segments"] > 0) & (targets != SEPARATOR)
    chosen = weights > 0
    assert set(np.unique(weights)) == {0.0, 1.0}
    assert not (chosen & ~may).any()
    assert (inputs == targets)[~chosen].all()
    assert chosen.sum() / may.sum() == pytest.approx(0.15, abs=0.01)
    assert (inputs == MASK)[chosen].mean() == pytest.approx(0.8, abs=0.03)
    other = chosen & (inputs != MASK)
    # One random token in V is the token itself.
    assert (inputs == targets)[other].mean() == pytest.approx(0.5 + 0.5 / VOCABULARY, abs=0.06)
    assert set(np.unique(inputs[other])) == set(range(VOCABULARY))


def test_training_draws_anew_and_dropout_has_its_own_key():
    given = batch(3, 17)
    first, again, other = (POSE(given, jax.random.key(seed)) for seed in (0, 0, 1))
    assert (first.weights == again.weights).all()
    assert (first.weights != other.weights).any()
    assert first.key == again.key != jax.random.key(0)


def test_an_evaluated_row_is_masked_by_its_content_alone():
    given = batch(5, 101)
    whole = POSE(given, None)
    assert whole.key is None
    assert len({np.asarray(row).tobytes() for row in whole.weights}) == 5
    for i in (0, 3):
        alone = POSE({name: value[i : i + 1] for name, value in given.items()}, None)
        assert (alone.inputs == whole.inputs[i]).all()
        assert (alone.weights == whole.weights[i]).all()
    turned = {name: value[::-1] for name, value in given.items()}
    assert (POSE(turned, None).weights == whole.weights[::-1]).all()


def test_next_tokens_are_all_that_is_no_padding():
    given = batch(2, 9)
    key = jax.random.key(0)
    inputs, targets, weights, same = next_tokens({k: jnp.asarray(v) for k, v in given.items()}, key)
    assert (inputs == given["inputs"]).all()
    assert (targets == given["targets"]).all()
    assert (weights == (given["segments"] > 0)).all()
    assert same is key
