import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.nn import stack

ONES = jnp.ones((4, 50, 64))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropped_activations_keep_their_mean(rate):
    found = np.asarray(stack._dropped(ONES, rate, jax.random.key(0)))
    kept = found != 0
    np.testing.assert_allclose(found[kept], 1 / (1 - rate), rtol=1e-6)
    for axes in ((0, 1), (0, 2), (1, 2)):  # no row, token or feature is better off
        spread = (rate * (1 - rate) / np.prod([ONES.shape[axis] for axis in axes])) ** 0.5
        assert np.abs(kept.mean(axes) - (1 - rate)).max() < 5 * spread


def test_what_is_dropped_is_the_keys_doing():
    def kept(seed):
        return np.asarray(stack._dropped(ONES, 0.5, jax.random.key(seed))) != 0

    np.testing.assert_array_equal(kept(1), kept(1))
    assert abs((kept(1) == kept(2)).mean() - 0.5) < 0.05
    assert abs((kept(1)[0] == kept(1)[1]).mean() - 0.5) < 0.05


def test_nothing_is_dropped_without_a_key_or_a_rate():
    assert stack._dropped(ONES, 0.5, None) is ONES
    assert stack._dropped(ONES, 0.0, jax.random.key(0)) is ONES


def test_float64_that_would_be_float32_is_refused():
    sizes = {"num_layers": 1, "features": 4, "num_heads": 1, "dtype": "float64"}
    with pytest.raises(ValueError, match="needs jax_enable_x64"):
        stack.StackConfig(**sizes)
    with jax.enable_x64(True):
        assert stack.StackConfig(**sizes).dtype == "float64"


def test_the_longest_sequence_is_also_that_of_encodings_which_layers_own(monkeypatch):
    class Limited(encodings.Encoding):
        max_length = 4

    known = encodings.scheme
    monkeypatch.setattr(
        encodings, "scheme", lambda name: Limited if name == "limited" else known(name)
    )
    config = stack.StackConfig(num_layers=2, features=8, num_heads=2, encodings=("limited",))
    made = stack.Stack(config, causal=True, rngs=nnx.Rngs(0))
    assert made.max_length == 4
    with pytest.raises(ValueError, match="5 tokens are more than the 4 positions of limited"):
        made(jnp.ones((1, 5, 8)))
    with pytest.raises(ValueError, match="a cache of 5 tokens is longer than the 4 positions"):
        made.init_caches(1, 5)
