"""Encodings that walk along the row: what holds for any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.positions import consecutive
from tests import oracle
from tests.attending import (
    BLOCKS,
    H,
    T,
    assert_trees_close,
    attend,
    differentiated,
    inputs,
    make,
    value_and_grads,
)

WALKING = [name for name in encodings.names() if encodings.scheme(name).walks]
PATHS = ["reference", "blockwise"]
ONE = {"B": 1, "N": 1, "K": 1}


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


class Discount(encodings.Encoding):
    """Each key that a query has passed takes `rate` off the logits of those beyond."""

    def __init__(self, rate=0.1):
        self.rate = nnx.Param(jnp.asarray(rate))

    def begin(self, q_TH, q_features):
        return {"passed": jnp.zeros(q_TH.shape[:1])}

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        seen_CK = jnp.ones((q_CH.shape[0], k_KH.shape[0])) if seen_CK is None else 1.0 * seen_CK
        passed_CK = carry["passed"][:, None] + jnp.cumsum(seen_CK[:, ::-1], 1)[:, ::-1] - seen_CK
        carry = {"passed": passed_CK[:, 0] + seen_CK[:, 0]}
        return encodings.Passed(None, -self.rate[...] * passed_CK, carry)


class Linear(encodings.Encoding):
    """The same as a bias of the distance."""

    def __init__(self, rate=0.1):
        self.rate = nnx.Param(jnp.asarray(rate))

    def bias(self, d):
        return -self.rate[...] * d


def assert_as_a_bias(encoding, bias, arrays, **kw):
    """A walk by every path is what a bias of the distance is by the equation."""
    weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
    expected = value_and_grads(bias, arrays, weight, causal=True, implementation="reference", **kw)
    for path in PATHS:
        found = value_and_grads(
            encoding, arrays, weight, causal=True, implementation=path, block_sizes=BLOCKS, **kw
        )
        assert_trees_close(found, expected, 1e-10)


@pytest.mark.usefixtures("float64")
def test_a_walk_that_counts_is_a_linear_bias():
    assert_as_a_bias(Discount(), Linear(), inputs(**ONE), window=(9, 2))


@pytest.mark.usefixtures("float64")
def test_a_walk_may_start_behind_tokens_that_came_before():
    """As positions say, of rows and heads mapped."""
    places = {"q_positions": consecutive(5), "k_positions": consecutive(0)}
    assert_as_a_bias(Discount(), Linear(), inputs(T=T, S=T + 5), softcap=3.0, **places)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", WALKING)
def test_rows_in_another_order_are_the_same_rows(name):
    """The walk goes by position, wherever a token stands."""
    encoding, arrays = make(name, heads=1), inputs(**ONE)
    order = np.random.default_rng(2).permutation(T)
    expected = attend(encoding, *arrays, causal=True, implementation="reference")
    moved = [a[:, order] for a in arrays]
    kw = {"causal": True, "q_positions": order, "k_positions": order, "block_sizes": BLOCKS}
    for path in PATHS:
        found = attend(encoding, *moved, implementation=path, **kw)
        np.testing.assert_allclose(found, expected[:, order], atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", WALKING)
def test_a_segment_in_pieces_is_that_segment_alone(name):
    """Where what lies between counts in the distances."""
    encoding, arrays = make(name, heads=1), inputs(T=36, **ONE)
    segments = np.tile([1, 2, 2, 1, 1, 2], 6)
    places = [np.flatnonzero(segments == segment) for segment in (1, 2)]
    alone = [
        attend(
            encoding, *(a[:, at] for a in arrays), causal=True, implementation="reference",
            q_positions=at - at[0], k_positions=at - at[0],
        )
        for at in places
    ]  # fmt: skip
    kw = {"causal": True, "q_segments": segments, "k_segments": segments, "block_sizes": BLOCKS}
    for path in PATHS:
        found = attend(encoding, *arrays, implementation=path, **kw)
        for at, expected in zip(places, alone, strict=True):
            np.testing.assert_allclose(found[:, at], expected, atol=1e-12)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", WALKING)
def test_huge_numbers_in_padding_leave_no_trace(name):
    encoding, (q, k, v, x) = make(name, heads=1), inputs(T=24, **ONE)
    segments = jnp.asarray([[1, 0, 2]]).repeat(8, 1)
    hidden = (segments == 0)[:, :, None]
    loud = [jnp.where(hidden[..., None], 1e6, a) for a in (q, k, v)]
    kw = {"causal": True, "implementation": "blockwise", "block_sizes": (8, 8)}
    program = differentiated(encoding, jnp.ones_like(q), **kw)
    expected, found = (program((*a, x), segments=segments) for a in ((q, k, v), loud))
    assert_trees_close(found[0], expected[0], 1e-12)
    for gradient in jax.tree.leaves(found[1]):
        assert jnp.isfinite(gradient).all()


@pytest.mark.parametrize("name", WALKING)
def test_float32_does_not_drift_along_the_row(name):
    graphdef, state = nnx.split(make(name, heads=1, dtype=jnp.float32))
    arrays = inputs(T=1024, B=1, N=1, K=1, dtype=np.float32)

    def run(state, *arrays):
        return attend(nnx.merge(graphdef, state), *arrays, causal=True, implementation="blockwise")

    found = run(state, *arrays)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: a.astype(jnp.float64), (state, *arrays))
        exact = np.asarray(run(*wide))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", WALKING)
def test_kernels_refuse_a_walk_by_name(name):
    q, k, v, x = inputs(dtype=np.float32)
    encoding = make(name, dtype=jnp.float32)
    with pytest.raises(ValueError, match=f"{type(encoding).__name__}: it walks along the row"):
        attend(encoding, q, k, v, x, causal=True, implementation="pallas")


class XPos(encodings.Encoding):
    """logit = scale * sum_m Re(q_m conj(k_m) e^(i d theta_m)) z_m^(d / 512).  Sun et al. 2022, arXiv:2212.10554."""

    causal_only = True

    def __init__(self):
        m = np.arange(0, H, 2)
        self.speeds = nnx.Param(jnp.asarray(10000.0 ** (-m / H)))
        self.rates = nnx.Param(jnp.asarray(-np.log((m / H + 0.4) / 1.4) / 512))

    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        d_CK = jnp.maximum(q_positions[:, None] - k_positions[None], 0)
        turn_CKM = d_CK[..., None] * self.speeds[...]
        fade_CKM = jnp.exp(-d_CK[..., None] * self.rates[...])
        (a, b), (c, d) = (jnp.split(x, 2, -1) for x in (q_CH[:, None], k_KH[None]))
        dots = (a * c + b * d) * jnp.cos(turn_CKM) - (b * c - a * d) * jnp.sin(turn_CKM)
        return encodings.Passed((dots * fade_CKM).sum(-1), None, carry)


class XPosOracle(oracle.Oracle):
    def logit(self, q, k, i, j, scale, x, row, column):
        m, half, d = np.arange(0, H, 2), H // 2, i - j
        zeta = ((m / H + 0.4) / 1.4) ** (d / 512)
        q, k = q[:half] + 1j * q[half:], k[:half] + 1j * k[half:]
        return scale * float(
            (q * k.conj() * zeta * np.exp(1j * d * 10000.0 ** (-m / H))).real.sum()
        )


FAR = {
    "40,000": 40_000 + np.arange(T),
    "1,000,000": 1_000_000 + np.arange(T),
    "apart": np.cumsum(np.random.default_rng(5).integers(1, 70_000, T)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("at", FAR.values(), ids=FAR)
def test_a_walk_fades_by_distance_at_any_position(at, path):
    """Where z^i and z^-j by themselves are 0 and infinite."""
    encoding, (q, k, v, x) = XPos(), inputs(**ONE)
    places = {"q_positions": jnp.asarray(at), "k_positions": jnp.asarray(at)}
    kw = places | {"causal": True, "implementation": path, "block_sizes": BLOCKS}
    found = attend(encoding, q, k, v, x, **kw)
    expected = oracle.attention(
        [XPosOracle({}, 0, 1, {})], *(np.asarray(a[0]) for a in (q, k, v)),
        q_positions=at, k_positions=at, visible=lambda t, s: s <= t, scale=H**-0.5,
    )  # fmt: skip
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-10)


@pytest.mark.usefixtures("float64")
def test_a_walk_by_distance_has_exact_gradients_far_from_the_start():
    arrays, places = inputs(**ONE), jnp.asarray(FAR["1,000,000"])
    weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
    kw = {"causal": True, "q_positions": places, "k_positions": places, "block_sizes": BLOCKS}
    expected, found = (
        value_and_grads(XPos(), arrays, weight, implementation=path, **kw) for path in PATHS
    )
    assert_trees_close(found, expected, 1e-10)


class Both(Discount):
    def bias(self, d):
        return -0.2 * d


@pytest.mark.usefixtures("float64")
def test_a_walk_may_stand_beside_a_bias_of_its_own():
    assert_as_a_bias(Both(0.1), Linear(0.1 + 0.2), inputs(**ONE))


class WithValues(Discount):
    def value_vectors(self, d):
        return 1.0 * d[:, None]


def test_a_walk_beside_vectors_of_values_is_refused():
    q, k, v, _ = inputs(dtype=np.float32)
    with pytest.raises(ValueError, match="WithValues fills walk"):
        attention(q, k, v, encoding=WithValues(), causal=True)
