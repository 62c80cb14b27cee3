import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle
from tests.attending import attend, inputs, make


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"gate": "softplus", "weights": False},
        {"gate": "softplus", "kernel": "log"},
    )

    def read(self, x, number):
        return x @ self.p["weight"][self.head, :, number] + self.p["offset"][self.head, number]

    def logit(self, q, k, i, j, scale, x, row, column):
        read = self.read(x[min(row, column) + 1 : max(row, column) + 1], 0)
        is_soft = self.options.get("gate") == "softplus"
        gap = (np.log(1 + np.exp(read)) if is_soft else np.maximum(read, 0)).sum()
        if self.options.get("kernel") == "log":
            gap = np.log(1 + gap**2)
        if self.options.get("weights", True):
            gap *= np.log(1 + np.exp(self.read(x[row], 1)))
        return scale * float(q @ k) - gap


def test_where_it_starts():
    cable = encodings.create("cable", num_heads=3, head_dim=50, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(cable.weight[...].std(), 0.02, rtol=0.1)
    assert cable.weight.shape == (3, 150, 2)
    np.testing.assert_array_equal(cable.offset[...], np.zeros((3, 2)))


def alone(causal, one, other):
    """The outputs of two schemes on the same input."""
    arrays = inputs(T=29, B=1, dtype=np.float32)
    return (attend(each, *arrays, causal=causal) for each in (one, other))


@pytest.mark.parametrize("causal", [True, False])
def test_steps_and_weights_that_are_constant_are_alibi(causal):
    """Sec. 3: a bias of 1 for each token, and the slope as the weight."""
    cable, alibi = (make(name, dtype=jnp.float32) for name in ("cable", "alibi"))
    cable.weight[...] = jnp.zeros_like(cable.weight[...])
    steps = jnp.ones(6)
    cable.offset[...] = jnp.stack([steps, jnp.log(jnp.expm1(alibi.slopes[...]))], 1)
    found, expected = alone(causal, cable, alibi)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_its_first_version_is_fox_with_its_parameters_negated():
    fox = make("fox", dtype=jnp.float32)
    cable = make("cable", dtype=jnp.float32, gate="softplus", weights=False)
    cable.weight[...], cable.offset[...] = -fox.weight[..., None], -fox.offset[..., None]
    found, expected = alone(True, cable, fox)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_unknown_gates_and_kernels_are_told():
    for options, message in (
        ({"gate": "sigmoid"}, "unknown cable.gate 'sigmoid': known: relu, softplus"),
        ({"kernel": "power"}, "unknown cable.kernel 'power': known: linear, log"),
    ):
        with pytest.raises(ValueError, match=message):
            make("cable", **options)
