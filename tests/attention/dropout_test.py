import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relpos import attention
from relpos.attention import dropout


def masks(rate):
    """The masks of 2 rows and 3 heads, [6, 256, 256]."""
    seeds = dropout.seeds(jax.random.key(0), (2, 3))
    at = jnp.arange(256)
    keep = lambda seed: dropout.keep(seed, at, at, rate)  # noqa: E731
    return np.asarray(jax.vmap(keep)(seeds.reshape(6, *seeds.shape[2:])), float)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rate_is_kept_everywhere(rate):
    kept = masks(rate)
    # 256 or 65536 draws: five standard deviations.
    spread = 5 * (rate * (1 - rate)) ** 0.5
    assert np.abs(kept.mean((1, 2)) - (1 - rate)).max() < spread / 256
    assert np.abs(kept.mean(1) - (1 - rate)).max() < spread / 16
    assert np.abs(kept.mean(2) - (1 - rate)).max() < spread / 16


def test_heads_rows_and_columns_are_drawn_apart():
    kept = masks(0.5) - 0.5
    spread = 5 * 0.25 / 256
    for i in range(6):
        for j in range(i):
            assert abs((kept[i] * kept[j]).mean()) < spread
        assert abs((kept[i, 1:] * kept[i, :-1]).mean()) < spread
        assert abs((kept[i, :, 1:] * kept[i, :, :-1]).mean()) < spread
        assert abs((kept[i] * kept[i].T)[np.triu_indices(256, 1)].mean()) < 2 * spread


@pytest.mark.parametrize("path", ["reference", "blockwise"])
def test_what_is_kept_makes_up_for_what_is_dropped(path):
    q = jnp.zeros((1, 512, 4, 8))
    out = attention(
        q, q, jnp.ones_like(q), dropout_rate=0.4, dropout_key=jax.random.key(1), implementation=path
    )
    assert float(out.std()) > 0.01
    np.testing.assert_allclose(out.mean(), 1.0, atol=0.01)
