import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle
from tests.attending import attend, inputs, make


class Oracle(oracle.Oracle):
    VARIANTS = ({"width": 5, "base": 10000.0, "layout": "interleaved"},)

    def position(self, x):
        gate = x @ self.p["gate"]
        read = gate / (1 + np.exp(-gate)) * (x @ self.p["content"])
        return read @ self.of_key_head("position")

    def logit(self, q, k, i, j, scale, x, row, column):
        half = len(q) // 2
        theta = self.options.get("base", 500000.0) ** (-np.arange(half) / half)
        angle = (self.position(x[row]) - self.position(x[column])) * theta
        if self.options.get("layout") == "interleaved":
            q, k = q[::2] + 1j * q[1::2], k[::2] + 1j * k[1::2]
        else:
            q, k = q[:half] + 1j * q[half:], k[:half] + 1j * k[half:]
        return scale * float((q * k.conj() * np.exp(1j * angle)).real.sum())


def test_where_it_starts():
    made = encodings.create("repo", num_heads=8, num_kv_heads=2, head_dim=50, rngs=nnx.Rngs(0))
    assert made.gate.shape == made.content.shape == (400, 50)  # an eighth of the features
    assert made.position.shape == (2, 50)
    np.testing.assert_allclose(made.gate[...].std(), 0.02 * 0.987, rtol=0.02)  # cut at 3
    assert np.abs(made.gate[...]).max() <= 0.06


def test_tokens_without_a_position_have_none():
    repo = make("repo", dtype=jnp.float32)
    repo.content[...] = jnp.zeros_like(repo.content[...])
    arrays = inputs(dtype=np.float32)
    found, expected = (attend(each, *arrays) for each in (repo, make("none")))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_it_cannot_turn_is_told():
    for options, message in (
        ({"width": -1}, "repo.width must be at least 0, got -1"),
        ({"base": 0.5}, "repo.base must be at least 1, got 0.5"),
        ({"layout": "pairs"}, "unknown repo.layout 'pairs'"),
    ):
        with pytest.raises(ValueError, match=message):
            make("repo", **options)
    with pytest.raises(ValueError, match="head_dim must be even, got 5"):
        encodings.create("repo", num_heads=1, head_dim=5, rngs=nnx.Rngs(0))
