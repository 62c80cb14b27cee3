"""What the programs of attention hold: their types, what is kept, how large the largest array is."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.attention import choices
from tests.attending import (
    WITHIN,
    attend,
    carried,
    inputs,
    make,
)
from tests.kinds import OF_EACH_KIND, quick_for


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float32", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", encodings.names())
def test_rank_promotion_may_raise_and_float64_be_on(name, dtype):
    def run():
        encoding = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
        q, x = jnp.ones((1, 40, 2, 4), dtype), jnp.ones((1, 40, 8), dtype)
        loss = lambda e, q: attend(  # noqa: E731
            e, q, q, q, x, causal=True, implementation="blockwise", block_sizes=(8, 8)
        ).sum()
        return nnx.grad(loss, argnums=(0, 1))(encoding, q)[1], encoding.embed(x[0], jnp.arange(40))

    with jax.enable_x64(True), jax.numpy_rank_promotion("raise"):
        assert {x.dtype for x in jax.eval_shape(run)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("name", ["none", "transformer_xl"])
def test_the_backward_pass_is_kept_no_vectors_and_no_forward_pass_runs_twice(monkeypatch, name):
    """Heads one after another, as on a CPU: queries, keys, values and results are kept, and a number for each row."""
    jax.clear_caches()
    monkeypatch.setattr(choices, "heads_at_once", lambda *_: 1)
    graphdef, state = nnx.split(make(name, heads=2, dtype=jnp.float32))
    q, k, v, x = inputs(T=64, N=2, K=2, B=1, dtype=np.float32)

    def out(state, q, k, v):
        encoding = nnx.merge(graphdef, state)
        return attend(encoding, q, k, v, x, causal=True, implementation="blockwise")

    kept = sum(leaf.size for leaf in jax.tree.leaves(jax.vjp(out, state, q, k, v)[1]))
    assert kept < 4.5 * q.size + sum(leaf.size for leaf in jax.tree.leaves(state))
    gradient = jax.jit(jax.grad(lambda *x: out(*x).sum(), (0, 1, 2, 3))).lower(state, q, k, v)
    # Weights and peak going forward, weights going back.
    assert gradient.as_text().count("stablehlo.exponential ") == 3
    jax.clear_caches()


T = 16384


def sizes_in(jaxpr):
    """The number of elements of everything that a program computes, inner programs too."""
    for equation in jaxpr.eqns:
        yield from (var.aval.size for var in equation.outvars)
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: isinstance(x, jax.extend.core.ClosedJaxpr)
        ):
            inner = getattr(value, "jaxpr", value)
            if isinstance(inner, jax.extend.core.Jaxpr):
                yield from sizes_in(inner)


@pytest.mark.parametrize("name", quick_for(OF_EACH_KIND, WITHIN))
@pytest.mark.parametrize("path", ["auto", "pallas"])
def test_nothing_of_size_t_by_t_is_made(path, name):
    encoding = encodings.create(name, num_heads=1, head_dim=4, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(encoding)

    def loss(state, q, x):
        encoding = nnx.merge(graphdef, state)
        return attend(encoding, q, q, q, x, causal=True, implementation=path).sum()

    q, x = (
        jax.ShapeDtypeStruct((1, T, 1, 4), jnp.float32),
        jax.ShapeDtypeStruct((1, T, 4), jnp.float32),
    )
    program = jax.make_jaxpr(jax.grad(loss, (0, 1)))
    if not carried(encoding, [path]):
        with pytest.raises(
            ValueError, match=r"walks along the row|mixes the logits|has an attention sink"
        ):
            program(state, q, x)
        return
    largest = max(sizes_in(program(state, q, x).jaxpr))
    assert largest < T * T / 8


def test_the_reference_makes_arrays_of_size_t_by_t():
    q = jax.ShapeDtypeStruct((1, T, 1, 4), jnp.float32)
    dense = lambda q: attention(q, q, q, implementation="reference")  # noqa: E731
    assert max(sizes_in(jax.make_jaxpr(dense)(q).jaxpr)) >= T * T


def test_what_positions_alone_say_is_not_kept_for_all_heads():
    """XLA moves what is the same for every head out of the loop over heads: for FIRE an array [T, T] for each unit."""
    T, N = 512, 2  # one block
    encoding = encodings.create("fire", num_heads=N, head_dim=4, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(encoding)
    q = jax.ShapeDtypeStruct((1, T, N, 4), jnp.float32)

    def attend(state, q):
        encoding = nnx.merge(graphdef, state)
        return attention(q, q, q, encoding=encoding, implementation="blockwise")

    def plain(q):
        return attention(q, q, q, implementation="blockwise")

    def temporaries(f, *args):
        return jax.jit(f).lower(*args).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(attend, state, q) < temporaries(plain, q) + 8 * T * T
