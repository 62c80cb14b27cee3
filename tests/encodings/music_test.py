import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"max_distance": 5},
        {"max_distance": 5, "beyond": "clip"},
        {"max_distance": 6, "bidirectional": True},
        {"max_distance": 6, "bidirectional": True, "beyond": "clip"},
    )

    def logit(self, q, k, i, j, scale, x, row, column):
        M = self.options.get("max_distance", 1024)
        r = j - i  # the paper's: E is ordered from -(M - 1) on
        if abs(r) >= M and self.options.get("beyond", "zero") == "zero":
            return scale * float(q @ k)
        r = min(max(r, 1 - M), M - 1)
        return scale * float(q @ k + q @ self.p["table"][self.head][r + M - 1])


def make(heads=1, head_dim=4, **options):
    return encodings.create(
        "music", num_heads=heads, head_dim=head_dim, rngs=nnx.Rngs(0), **options
    )


@pytest.mark.parametrize(("bidirectional", "rows"), [(False, 1024), (True, 2047)])
def test_each_head_has_a_table_of_the_public_codes_size_and_spread(bidirectional, rows):
    """update_truncate_length(2048) of Magenta's score2perf, and Tensor2Tensor's get_relative_embeddings_left."""
    table = np.asarray(make(3, 16, bidirectional=bidirectional).table[...])
    assert table.shape == (3, rows, 16)
    np.testing.assert_allclose(table.std(), 16**-0.5, rtol=0.02)


def skewed(x_TT):
    """The paper's procedure: a column of padding, a reshape, and the first row cut off."""
    T = len(x_TT)
    return np.pad(x_TT, ((0, 0), (1, 0))).reshape(T + 1, T)[1:]


@pytest.mark.parametrize("T", [5, 9])
def test_logits_are_those_of_skewing(T):
    """Tensor2Tensor pads the table of M rows with zeros in front where the row is longer, else takes the last T."""
    M, H = 7, 8
    random = np.random.default_rng(0)
    q, k, v = random.normal(size=(3, T, H)).astype(np.float32)
    music = make(1, H, max_distance=M)
    E = np.asarray(music.table[...])[0]
    E = np.pad(E, ((max(T - M, 0), 0), (0, 0)))[max(M - T, 0) :]
    logits = (q @ k.T + skewed(q @ E.T)) / np.sqrt(H)
    weights = np.exp(np.where(np.tri(T), logits, -np.inf))
    expected = weights / weights.sum(1, keepdims=True) @ v
    q, k, v = (jnp.asarray(x)[None, :, None] for x in (q, k, v))
    found = attention(q, k, v, encoding=music, causal=True)[0, :, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_distance": 0}, r"music\.max_distance must be from 1 to 1073741823, got 0"),
        ({"max_distance": 2**30}, r"music\.max_distance must be from 1"),
        ({"beyond": "nothing"}, r"unknown music\.beyond 'nothing': known: zero, clip"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
