import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests import oracle
from tests.attending import assert_trees_close, inputs, value_and_grads


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"base": 500.0, "layout": "half"},
        {"scale_base": 1.0, "gamma": 1e-3},  # 8 / 6.9 positions are far
    )

    def logit(self, q, k, i, j, scale, x, row, column):
        H, gamma = len(q), self.options.get("gamma", 0.4)
        power = (i - j) / self.options.get("scale_base", 512.0)
        total = 0.0
        for m in range(H // 2):
            theta = self.options.get("base", 10000.0) ** (-2 * m / H)
            zeta = (2 * m / H + gamma) / (1 + gamma)
            a, b = (m, m + H // 2) if "layout" in self.options else (2 * m, 2 * m + 1)
            q_m, k_m = complex(q[a], q[b]), complex(k[a], k[b])
            turned = q_m * k_m.conjugate() * np.exp(1j * (i - j) * theta)
            total += zeta**power * turned.real
        return scale * total


def make(head_dim=8, **options):
    return encodings.create("xpos", num_heads=1, head_dim=head_dim, rngs=nnx.Rngs(0), **options)


def assert_exact(at, **kw):
    """In float32, forward and backward, what float64 gives; and that is the paper's loop."""
    at = np.asarray(at)
    T = len(at)
    q, k, v, x = inputs(T=T, B=1, N=1, K=1, dtype=np.float32)
    weight = jnp.ones_like(q)
    places = {"q_positions": jnp.asarray(at), "k_positions": jnp.asarray(at), "causal": True} | kw
    found = value_and_grads(make(10), (q, k, v, x), weight, implementation="blockwise", **places)
    with jax.enable_x64(True):
        wide = [a.astype(jnp.float64) for a in (q, k, v, x)]
        exact = value_and_grads(
            make(10), wide, weight.astype(jnp.float64), implementation="reference", **places
        )
        assert_trees_close(found, exact, 1e-3)
    expected = oracle.attention(
        [Oracle({}, 0, 1, {})], *(np.asarray(a[0], np.float64) for a in (q, k, v)),
        q_positions=at, k_positions=at, visible=lambda i, j: at[j] <= at[i], scale=10**-0.5,
    )  # fmt: skip
    np.testing.assert_allclose(np.asarray(exact[0])[0], expected, atol=1e-10)


@pytest.mark.parametrize("start", [0, 40_000, 1_000_000])
def test_no_power_overflows_far_from_zero(start):
    """z^(i/512) alone is 0 from position 36,500 on in float32, and z^(-j/512) infinite."""
    assert_exact(start + np.arange(40), block_sizes=(8, 16))


def test_nor_where_one_block_reaches_far():
    """Blocks of tokens side by side, of tokens far apart, and in no order."""
    far = np.concatenate([np.arange(12), 5000 + np.arange(3), [10**5, 10**6, 3 * 10**6]])
    assert_exact(far, block_sizes=(8, 8))
    assert_exact(np.random.default_rng(0).permutation(far), block_sizes=(32, 32))


def test_a_decoding_step_sees_what_the_whole_row_sees():
    """A public version takes positions from the middle of what is at hand, and keys in a cache then do not fit."""
    q = jax.random.normal(jax.random.key(0), (1, 30, 1, 8))
    at = jnp.arange(30)
    kw = {"encoding": make(), "causal": True}
    whole = attention(q, q, q, **kw)
    step = attention(q[:, -1:], q, q, q_positions=at[-1:], k_positions=at, **kw)
    np.testing.assert_allclose(step[:, 0], whole[:, -1], atol=1e-6)


def test_the_fading_is_the_papers():
    """Of queries and keys of ones, turned already, at distance 512: 2 sum_m zeta_m,  m = 0 ... 3."""
    ones = jnp.ones((1, 8))
    dots, bias, carry = make().walk(
        (), ones, ones, jnp.array([512]), jnp.array([0]), None, None, None, 1.0
    )
    zetas = [0.4 / 1.4, 0.65 / 1.4, 0.9 / 1.4, 1.15 / 1.4]
    np.testing.assert_allclose(dots, [[2 * sum(zetas)]], rtol=1e-6)
    assert bias is None
    assert carry == ()


def test_a_key_ahead_in_an_order_of_its_own_does_not_overflow_in_float16():
    """zeta_0^(-5000/512) is 205,000, and float16 ends at 65,504."""
    ones = jnp.ones((1, 8), jnp.float16)
    at = jnp.array([0]), jnp.array([5000])
    dots = make().walk((), ones, ones, *at, None, None, None, 1.0).dots
    expected = 2 * (np.array([0.4, 0.65, 0.9, 1.15]) / 1.4) ** (-5000 / 512)
    np.testing.assert_allclose(dots, [[expected.sum()]], rtol=1e-5)


@pytest.mark.parametrize(
    ("head_dim", "options", "message"),
    [
        (8, {"scale_base": 0.5}, "xpos.scale_base must be at least 1, got 0.5"),
        (8, {"gamma": 0.0}, "xpos.gamma must be above 0"),
        (8, {"layout": "pairs"}, "unknown xpos.layout"),
        (8, {"base": 0.5}, "xpos.base must be at least 1"),
        (7, {}, "head_dim must be even, got 7"),
    ],
)
def test_what_makes_no_sense_is_refused(head_dim, options, message):
    with pytest.raises(ValueError, match=message):
        make(head_dim, **options)
