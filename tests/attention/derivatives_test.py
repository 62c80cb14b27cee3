"""Second derivatives, and gradients where not everything is trained."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.attention.slots import SLOTS
from tests.attending import (
    WITHIN,
    EverySlot,
    assert_trees_close,
    attend,
    inputs,
    make,
)


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def squares(encoding):
    """A loss by path, and the point where it is differentiated."""
    graphdef, state = nnx.split(encoding)
    q, k, v, x = inputs(B=1, T=11, N=1, K=1)

    def loss(path):
        def of(state, q):
            out = attend(
                nnx.merge(graphdef, state), q, k, v, x, causal=True, implementation=path, block_sizes=(4, 4)
            )  # fmt: skip
            return (out**2).sum()

        return of

    return loss, (state, q)


def slopes(loss, state, q):
    """The gradient, and its slope along the point itself: forward over reverse."""
    return jax.jvp(jax.grad(loss, (0, 1)), (state, q), (state, q))


def marks(name):
    """What is no table, vector or rotation may have derivatives of its own; of the others EverySlot has one each."""
    slots = encodings.scheme(name).overridden & SLOTS
    by_itself = "block_bias" in slots or slots - EverySlot.overridden
    # path walks too, fox and grape_ap have a bias of pairs, dape a network, transformer_xl a table of distances.
    alike = name in ("cable", "cope", "cpb_2d", "fire", "grape_a", "irpe", "sandwich", "wall")
    return () if by_itself and not alike else pytest.mark.long


@pytest.mark.skipif(
    jax.__version_info__ < (0, 10, 2),
    reason="older JAX cannot differentiate a loop forward whose arguments it has no names for",
)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["every slot", *(pytest.param(n, marks=marks(n)) for n in WITHIN)])
def test_gradients_and_second_derivatives_under_vmap_are_those_of_each_call(name):
    loss, (state, q) = squares(
        EverySlot(1, heads=1) if name == "every slot" else make(name, heads=1)
    )
    many = jnp.stack([q, 0.4 * q[:, ::-1]])
    found = jax.jit(jax.vmap(lambda q: slopes(loss("blockwise"), state, q)))(many)
    each = jax.jit(lambda q: slopes(loss("reference"), state, q))
    expected = jax.tree.map(lambda *x: jnp.stack(x), *map(each, many))
    assert_trees_close(found, expected, 1e-10)


@pytest.mark.long
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", encodings.names())
def test_the_reference_has_second_derivatives_in_every_order(name):
    loss, point = squares(make(name, heads=1))
    loss = loss("reference")
    reverse = jax.grad(lambda *p: sum(
        (a * b).sum() for a, b in zip(
            jax.tree.leaves(jax.grad(loss, (0, 1))(*p)), jax.tree.leaves(point), strict=True
        )
    ), (0, 1))(*point)  # fmt: skip
    assert_trees_close(reverse, slopes(loss, *point)[1], 1e-10)
    slope = jax.jvp(loss, point, point)[1]
    gradient = jax.grad(loss, (0, 1))(*point)
    along = sum(
        (a * b).sum() for a, b in zip(*map(jax.tree.leaves, (gradient, point)), strict=True)
    )
    np.testing.assert_allclose(slope, along, rtol=1e-10)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_where_the_encoding_is_not_trained(causal):
    """A bias that nobody differentiates is left out of the backward pass, and nothing else."""
    arrays, encoding = inputs(T=19, B=1, N=1, K=1), EverySlot(1, heads=1)
    weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))

    def gradients(path):
        loss = lambda *x: (  # noqa: E731
            attend(encoding, *x, causal=causal, implementation=path, block_sizes=(4, 8)) * weight
        ).sum()
        return jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arrays)

    assert_trees_close(gradients("blockwise"), gradients("reference"), 1e-10)


class LooksUp(encodings.Encoding):
    """An encoding with an integer table among its variables."""

    def __init__(self):
        self.values = nnx.Param(jnp.arange(5.0))
        self.order = nnx.Variable(jnp.array([4, 2, 0, 1, 3]))

    def bias(self, d):
        return self.values[self.order[...][jnp.clip(d, 0, 4)]]


@pytest.mark.parametrize("places", [None, jnp.arange(0, 22, 2)])
def test_an_encoding_may_hold_integers(places):
    graphdef, trained, rest = nnx.split(LooksUp(), nnx.Param, ...)
    q = jax.random.normal(jax.random.key(0), (1, 11, 1, 4))

    def loss(trained, path):
        encoding = nnx.merge(graphdef, trained, rest)
        kw = {"q_positions": places, "k_positions": places, "implementation": path}
        return (attention(q, q, q, encoding=encoding, causal=True, **kw) ** 2).sum()

    found, expected = (jax.grad(loss)(trained, path) for path in ("blockwise", "reference"))
    assert_trees_close(found, expected, 1e-5)
