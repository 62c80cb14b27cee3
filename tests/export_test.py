"""Programs that are exported: for sizes not known yet, and for another platform than this machine's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.nn import Decoder, TransformerConfig
from tests.attending import WITHIN, D, H, N, attend, make

K = 3


def shapes(B, T, N=N, K=K):
    sizes = ((B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, D))
    return [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]


def arrays(*sizes):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=x.shape), x.dtype) for x in shapes(*sizes)]


# One of those that fill the same slots.
OF_EACH_KIND = (
    "cope", "dape", "fox", "inkling", "kerple", "pope", "rope", "shaw", "t5", "transformer_xl", "wall",
)  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in OF_EACH_KIND else pytest.mark.long) for name in WITHIN],
)
def test_batch_and_length_may_be_symbols(name):
    heads = 2 if encodings.scheme(name).mixes else 1
    encoding = make(name, heads=heads, key_heads=1, dtype=jnp.float32)
    function = jax.jit(lambda *x: attend(encoding, *x, causal=True))
    exported = jax.export.export(function)(*shapes(*jax.export.symbolic_shape("b, t"), heads, 1))
    x = arrays(2, 150, heads, 1)
    expected = attend(encoding, *x, causal=True, implementation="reference")
    for B, T in ((1, 3), (2, 150)):  # what comes later reaches no token
        found = exported.call(*(each[:B, :T] for each in x))
        np.testing.assert_allclose(found, expected[:B, :T], atol=2e-5)


@pytest.mark.parametrize(
    "kw",
    [{}, {"causal": True, "window": 9}, {"causal": True, "window": 400, "segments": True}],
    ids=str,
)
def test_a_gradient_with_other_rules_and_symbols(kw):
    encoding = make("t5", heads=2, key_heads=1, dtype=jnp.float32, bidirectional=True)
    kw = dict(kw)
    packed = kw.pop("segments", False)

    def gradient(implementation):
        def loss(q, k, v, x):
            segments = 1 + jnp.arange(q.shape[1]) // 40 if packed else None
            at = {"q_segments": segments, "k_segments": segments, "implementation": implementation}
            return (attend(encoding, q, k, v, x, **at, **kw) ** 2).sum()

        return jax.jit(jax.grad(loss, (0, 1, 2)))

    symbols = shapes(*jax.export.symbolic_shape("b, t"), 2, 1)
    exported = jax.export.export(gradient("auto"))(*symbols)
    x = arrays(2, 150, 2, 1)
    for found, wanted in zip(exported.call(*x), gradient("reference")(*x), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("name", ["sinusoidal", "t5,fox"])
def test_a_models_batch_and_length_may_be_symbols(name):
    names = tuple(name.split(","))
    config = TransformerConfig(num_layers=2, features=12, num_heads=2, encodings=names)
    graphdef, state = nnx.split(Decoder(config, vocab_size=7, rngs=nnx.Rngs(0)))
    function = jax.jit(lambda state, *x: nnx.merge(graphdef, state)(x[0], segments=x[1]))
    b, t = jax.export.symbolic_shape("b, t")
    tokens = jax.ShapeDtypeStruct((b, t), jnp.int32)
    exported = jax.export.export(function)(state, tokens, tokens)
    x = jnp.asarray(np.random.default_rng(0).integers(0, 7, (2, 37)), jnp.int32)
    segments = jnp.asarray([[1] * 20 + [2] * 17, [1] * 30 + [0] * 7], jnp.int32)
    np.testing.assert_allclose(
        exported.call(state, x, segments), function(state, x, segments), atol=1e-4
    )


def program(platform, dtype=jnp.float32):
    q = jax.ShapeDtypeStruct((4, 160, N, H), dtype)
    gradient = jax.jit(jax.grad(lambda q: attend(make("none"), q, q, q, q, causal=True).sum()))
    return jax.export.export(gradient, platforms=[platform])(q).mlir_module()


def products(platform, dtype):
    return [
        line for line in program(platform, dtype).splitlines() if "stablehlo.dot_general" in line
    ]


def test_a_program_is_made_as_the_platform_it_is_lowered_for_wants_it():
    """A CPU takes the rows in turn, one or a few heads together; accelerators take all heads and rows at once."""
    for platform, logits in (("cpu", "6x128x128xf32"), ("cuda", "6x4x128x128xf32")):
        found = products(platform, jnp.float32)
        assert found
        assert any(f"tensor<{logits}>" in line for line in found), platform
        # Two loops over blocks forward and two backward; on a CPU one over rows for each. Another layout may change it.
        assert program(platform).count("stablehlo.while") == {"cpu": 6, "cuda": 4}[platform]


def test_products_of_half_precision_are_widened_on_a_cpu_alone():
    on_cpu, on_gpu = (products(platform, jnp.bfloat16) for platform in ("cpu", "cuda"))
    assert (
        len(on_cpu) == len(on_gpu) == 7
    )  # two forward; the logits again and four gradients backward
    assert all("bf16" not in line for line in on_cpu)
    assert all("bf16>, tensor" in line for line in on_gpu)
