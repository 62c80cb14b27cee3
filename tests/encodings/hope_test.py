import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"trained_length": 4096, "base": 500.0, "layout": "interleaved"},)

    def logit(self, q, k, i, j, scale, x, row, column):
        H, length = len(q), self.options.get("trained_length", 512)
        total = 0.0
        for m in range(H // 2):
            theta = self.options.get("base", 10000.0) ** (-2 * m / H)
            if 2 * np.pi / theta > length:  # its wave is longer than what was read in training
                theta = 0.0
            a, b = (2 * m, 2 * m + 1) if "layout" in self.options else (m, m + H // 2)
            q_m, k_m = complex(q[a], q[b]), complex(k[a], k[b])
            total += (q_m * k_m.conjugate() * np.exp(1j * (i - j) * theta)).real
        return scale * total


def make(head_dim=128, **options):
    return encodings.create("hope", num_heads=1, head_dim=head_dim, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(("length", "turning"), [(512, 31), (4096, 46), (7, 1), (10**6, 64)])
def test_what_does_not_turn_once_in_the_trained_length_stands_still(length, turning):
    """Of 64 pairs: 10000^(-m/64) >= 2 pi / 512 up to m = 30."""
    x = jnp.ones((1, 128))
    moved = np.asarray(make(trained_length=length).query(x, jnp.array([3]), None) != x)[0]
    expected = np.tile(np.arange(64) < turning, 2)
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize(
    ("head_dim", "options", "message"),
    [
        (8, {"trained_length": 6}, "hope.trained_length must be at least 7"),
        (8, {"base": 0.5}, "hope.base must be at least 1"),
        (8, {"layout": "pairs"}, "unknown hope.layout"),
        (7, {}, "head_dim must be even, got 7"),
    ],
)
def test_what_makes_no_sense_is_refused(head_dim, options, message):
    with pytest.raises(ValueError, match=message):
        make(head_dim, **options)
