import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention.slots import each_head
from tests import oracle
from tests.attending import attend, inputs, make


class Oracle(oracle.Oracle):
    VARIANTS = ({"generator": "plane"}, {"per_head": True, "slowness": 1.0})

    @functools.cached_property
    def eigen(self):
        """The eigenvalues and vectors of i L, L the whole matrix."""
        if "plane" in self.p:
            a, b = self.of_key_head("plane")
            generator = np.outer(a, b) - np.outer(b, a)
        else:
            logs = self.of_key_head("speeds") if "per_head" in self.options else self.p["speeds"]
            M = len(logs)
            generator = np.zeros((2 * M, 2 * M))
            for m, log in enumerate(logs):
                theta = np.exp(log / self.options.get("slowness", 16.0))
                generator[m + M, m], generator[m, m + M] = theta, -theta
        return np.linalg.eigh(1j * generator)

    def logit(self, q, k, i, j, scale, x, row, column):
        """q . exp((j - i) L) k."""
        values, vectors = self.eigen
        turned = (vectors * np.exp(-1j * (j - i) * values)) @ (vectors.conj().T @ k)
        return scale * float(q @ turned.real)


def create(name, head_dim, **options):
    return encodings.create(name, num_heads=2, head_dim=head_dim, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("per_head", [False, True])
def test_it_starts_as_rope(per_head):
    grape, rope = create("grape_m", 10, base=500.0, per_head=per_head), create("rope", 10, base=500.0)  # fmt: skip
    q, k, v, _ = inputs(N=2, K=2, B=1, dtype=np.float32)
    found, expected = (attend(each, q, k, v, None, causal=True) for each in (grape, rope))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    default = np.exp(create("grape_m", 8).speeds[...] / 16)
    np.testing.assert_allclose(default, [1, 0.1, 0.01, 0.001], rtol=1e-5)


def test_a_plane_turns_as_its_two_vectors_say():
    """And what is at right angles to them stays; nothing grows."""
    grape = create("grape_m", 3, generator="plane")
    grape.plane[...] = jnp.array([[[0.0, 0.5, 0.0], [2.0, 0.0, 0.0]]] * 2)
    x, at = jnp.array([[3.0, 0.0, 7.0]] * 2), jnp.array([0, 2])
    turned = each_head(lambda one: one.query(x, at, None), grape)[0]
    expected = [[3, 0, 7], [3 * np.cos(2), 3 * np.sin(2), 7]]  # by |a| |b| = 1 for each position
    np.testing.assert_allclose(turned, expected, atol=1e-5)


def test_a_plane_that_hardly_turns_does_turn():
    grape = create("grape_m", 3, generator="plane")
    grape.plane[...] = jnp.array([[[0.0, 0.1, 0.0], [0.1, 0.0, 0.0]]] * 2)
    x, at = jnp.array([[3.0, 0.0, 7.0]]), jnp.array([30])  # by 0.01 for each position
    turned = each_head(lambda one: one.query(x, at, None), grape)[0]
    np.testing.assert_allclose(turned, [[3 * np.cos(0.3), 3 * np.sin(0.3), 7]], atol=1e-5)


def test_vectors_along_each_other_turn_nothing():
    grape = create("grape_m", 3, generator="plane")
    grape.plane[...] = jnp.broadcast_to(grape.plane[:, :1], grape.plane.shape)
    arrays = inputs(N=2, K=2, B=1, dtype=np.float32)
    q, k, v = (x[..., :3] for x in arrays[:3])
    found, expected = (
        attend(each, q, k, v, None, causal=True) for each in (grape, create("none", 3))
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_it_cannot_turn_is_told():
    for options, message in (
        ({"generator": "cayley"}, "unknown grape_m.generator 'cayley': known: coordinates, plane"),
        ({"base": 0.5}, "grape_m.base must be at least 1, got 0.5"),
        ({"slowness": 0.0}, r"grape_m.slowness must be from 1e-06 to 1e\+06, got 0.0"),
        ({"slowness": 1e-40}, "grape_m.slowness must be from"),
        ({"slowness": 1e38}, "grape_m.slowness must be from"),
    ):
        with pytest.raises(ValueError, match=message):
            make("grape_m", **options)
    with pytest.raises(ValueError, match="head_dim must be even and at least 2, got 5"):
        create("grape_m", 5)
