import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention.slots import each_head
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"learned": True, "base": 500.0, "layout": "interleaved"},
        {"trained_length": 40},
    )

    def turned(self, x, i):
        """The paper's equation 9: 1 for what is slower than a turn in the trained length, else sums of waves."""
        H, length = len(x), self.options.get("trained_length", 512)
        theta = [self.options.get("base", 10000.0) ** (-2 * m / H) for m in range(H // 2)]
        theta = [t for t in theta if t >= 2 * np.pi / length]
        S, C = self.of_key_head("sin"), self.of_key_head("cos")
        out = np.array(x, np.float64)
        for m in range(len(theta)):
            sin = sum(np.sin(i * t) * S[n, m] for n, t in enumerate(theta))
            cos = sum(np.cos(i * t) * C[n, m] for n, t in enumerate(theta))
            a, b = (2 * m, 2 * m + 1) if "layout" in self.options else (m, m + H // 2)
            out[a], out[b] = x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin
        return out

    def logit(self, q, k, i, j, scale, x, row, column):
        return scale * float(self.turned(q, i) @ self.turned(k, j))


def make(head_dim=128, heads=4, **options):
    sizes = {"num_heads": heads, "num_kv_heads": heads // 2, "head_dim": head_dim}
    return encodings.create("fope", **sizes, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("learned", [False, True])
def test_coefficients_start_about_one_and_are_fixed_unless_learned(learned):
    encoding = make(heads=20, gain=0.6, learned=learned)
    trained = nnx.to_flat_state(nnx.state(encoding, nnx.Param))
    assert len(trained) == 2 * learned
    for mixed in (encoding.sin[...], encoding.cos[...]):
        assert mixed.shape == (10, 31, 31)  # of 64 pairs 31 turn in 512 positions
        noise = np.asarray(mixed) - np.eye(31)
        assert noise.std() == pytest.approx(0.6 / 31**0.5, rel=0.05)
        assert noise.mean() == pytest.approx(0, abs=0.01)
    assert (encoding.sin[...] != encoding.cos[...]).all()
    other = encodings.create(
        "fope", num_heads=20, num_kv_heads=10, head_dim=128, rngs=nnx.Rngs(1), gain=0.6,
        learned=learned,
    )  # fmt: skip
    assert (other.sin[...] == encoding.sin[...]).all() != learned


def test_what_was_not_trained_is_left_as_it_is():
    """Public versions fill its sine with 1, which turns it and makes it larger by sqrt(2)."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 128)), jnp.float32)
    turned = each_head(lambda one: one.query(x, jnp.arange(5), None), make(gain=0.0, heads=2))[0]
    rope = encodings.create("rope", num_heads=1, head_dim=128, rngs=nnx.Rngs(0))
    of_rope = rope.query(x, jnp.arange(5), None)
    turning = np.tile(np.arange(64) < 31, 2)
    np.testing.assert_array_equal(turned[:, ~turning], x[:, ~turning])
    np.testing.assert_allclose(turned[:, turning], of_rope[:, turning], atol=1e-6)


@pytest.mark.parametrize(
    ("head_dim", "options", "message"),
    [
        (8, {"trained_length": 6}, "fope.trained_length must be at least 7"),
        (8, {"gain": -0.1}, "fope.gain must be from 0 to 1000, got -0.1"),
        (8, {"gain": 1e38}, "fope.gain must be from 0 to 1000"),
        (8, {"base": 0.5}, "fope.base must be at least 1"),
        (8, {"layout": "pairs"}, "unknown fope.layout"),
        (7, {}, "head_dim must be even, got 7"),
    ],
)
def test_what_makes_no_sense_is_refused(head_dim, options, message):
    with pytest.raises(ValueError, match=message):
        make(head_dim, **options)
