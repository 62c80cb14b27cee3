"""The contract of every encoding with numbers: their types, and what it says of distances far apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention import split_heads
from tests.attending import (
    BLOCKS,
    WITHIN,
    assert_trees_close,
    carried,
    inputs,
    make,
    value_and_grads,
)
from tests.contract_attention_test import FAST, NAMES, VARIANTS, of_few_heads, weight_of


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_no_parameter_is_weakly_typed(name):
    """The update of a weakly typed parameter has a type of its own: a training step would compile twice."""
    encoding = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(nnx.state(encoding)))


FEWER_BITS = [
    pytest.param("float32", 1e-4, ["blockwise"], id="float32"),
    pytest.param("float32", 1e-4, ["reference", *FAST], id="float32, all", marks=pytest.mark.long),
    pytest.param("bfloat16", 3e-2, ["reference", *FAST], id="bfloat16", marks=pytest.mark.long),
]


# Where digits may be lost: sums along the row, logarithms, exponentials, frequencies, vectors; and plain biases.
MAY_LOSE = (
    "cable", "cope", "deberta", "fire", "fox", "grape_ap", "kerple", "path", "selective_rope", "shaw",
    "stick_breaking", "t5", "tapa", "transformer_xl", "wall", "xpos",
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "tolerance", "paths"), FEWER_BITS)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in MAY_LOSE else pytest.mark.long) for n in WITHIN]
)
def test_fewer_bits_are_close_to_float64(name, dtype, tolerance, paths):
    """Of the same numbers: bfloat16 has 8 bits, and the gradients of a bfloat16 array are rounded to them too."""
    kw = {"causal": True, "block_sizes": BLOCKS}
    encoding, heads = of_few_heads(name, dtype=jnp.float32)
    arrays = inputs(B=1, N=heads, K=1)
    *arrays, weight = (x.astype(dtype) for x in (*arrays, weight_of(arrays)))
    *wide, wide_weight = (x.astype(jnp.float64) for x in (*arrays, weight))
    exact = value_and_grads(
        of_few_heads(name)[0], wide, wide_weight, implementation="reference", **kw
    )
    for implementation in carried(encoding, paths):
        out, (of_parameters, of_arrays) = value_and_grads(
            encoding, arrays, weight, implementation=implementation, **kw
        )
        assert {x.dtype for x in jax.tree.leaves((out, of_arrays))} == {jnp.dtype(dtype)}
        assert {x.dtype for x in jax.tree.leaves(of_parameters)} <= {jnp.dtype("float32")}
        found = (out, (of_parameters, of_arrays))
        assert_trees_close(jax.tree.map(lambda x: x.astype(jnp.float64), found), exact, tolerance)


SLOTS = ("bias", "key_vectors", "query_vectors", "value_vectors")
BY_DISTANCE = [
    (name, options)
    for name, options in [*((name, {}) for name in NAMES), *VARIANTS]
    if any(getattr(encodings.scheme(name), s) is not getattr(encodings.Encoding, s) for s in SLOTS)
]


@pytest.mark.parametrize(("name", "options"), BY_DISTANCE, ids=str)
def test_constant_beyond_says_where_a_scheme_becomes_constant(name, options):
    encoding = make(name, **options)
    split, per_head, shared = split_heads(encoding)
    one = nnx.merge(split, jax.tree.map(lambda x: x[0], per_head), shared)
    beyond = encoding.constant_beyond

    def at(d):
        found = jax.jit(lambda: [getattr(one, slot)(jnp.asarray(d)) for slot in SLOTS])()
        return [np.asarray(far) for far in found if far is not None]

    if not at([0]):  # an option leaves no slot of distances
        assert beyond is None
        assert options
    elif beyond is None:  # then it may not be: a band that is not told of costs time
        for far in at([10**4, 10**5, 10**6]):
            assert (far[0] != far[1]).any()
    else:
        for sign in (1, -1):
            for far in at(sign * (beyond + np.array([0, 1, 2, 50, 10**6, 2**31 - 1 - beyond]))):
                np.testing.assert_array_equal(far, np.broadcast_to(far[:1], far.shape))
