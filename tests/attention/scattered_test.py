"""Biases without an end at positions in any order: a table where distances are short, each pair by itself where not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.attention import PerHead
from relpos.attention.block_visibility import are_within
from relpos.attention.prepared import Location
from relpos.attention.reference import Rules
from tests.attending import BLOCKS, B, EverySlot, H, N, T, inputs
from tests.contract_attention_test import assert_paths_agree

MOST = 4 * T  # of the distances in a table


class Network(encodings.Encoding):
    """b[d] = w . relu(u log(1 + |d|)), a network of the distance."""

    def __init__(self, width=5, heads=N):
        random = np.random.default_rng(2)
        self.u = nnx.Param(jnp.asarray(random.normal(size=width)))
        self.w = PerHead(jnp.asarray(random.normal(size=(heads, width))))

    def bias(self, d):
        log = jnp.log1p(jnp.abs(d).astype(self.u.dtype))
        return jax.nn.relu(log[:, None] * self.u[...][None]) @ self.w[...]


ROWS = np.random.default_rng(0).permutation(T)
POSITIONS = {
    "near": np.stack([ROWS * 2, ROWS + 10**6]),
    "as far as the table": np.stack([np.minimum(ROWS, 1) * MOST] * B),
    "one further": np.stack([np.minimum(ROWS, 1) * (MOST + 1), ROWS]),
    "far": np.stack([ROWS * 1000, ROWS]),
}


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", POSITIONS)
def test_a_bias_without_an_end_is_the_same_near_and_far(kind, causal):
    at = jnp.asarray(POSITIONS[kind])
    segments = jnp.asarray([[1] * T, [0] * T if kind == "near" else [0] * 3 + [1] * (T - 3)])
    kw = {"causal": causal, "positions": at, "segments": segments}
    with jax.enable_x64(True):
        assert_paths_agree(Network(), kw, [BLOCKS], ["blockwise"])
        near = are_within(MOST, Rules(1.0, causal), (Location(at, segments),) * 2)
    assert near == (kind in ("near", "as far as the table"))


@pytest.mark.parametrize(("q", "k"), [(2**31 - 1, -5), (-(2**31), 5)])
def test_distances_that_int32_cannot_hold_are_not_near(q, k):
    places = tuple(Location(jnp.full((1, 1), x, jnp.int32)) for x in (q, k))
    assert not are_within(9, Rules(1.0), places)


def test_a_network_of_the_distance_wants_little_memory():
    """An array of every pair and unit is 512 MiB; near or far is told when the program runs."""
    graphdef, state = nnx.split(Network(512, heads=1))
    x = jax.ShapeDtypeStruct((1, 512, 1, H), jnp.float32)
    at = jax.ShapeDtypeStruct((1, 512), jnp.int32)

    def loss(state, x, at):
        encoding = nnx.merge(graphdef, state)
        return attention(x, x, x, encoding=encoding, q_positions=at, k_positions=at).sum()

    program = jax.jit(jax.grad(loss, (0, 1))).lower(state, x, at).compile()
    assert program.memory_analysis().temp_size_in_bytes < 32 * 2**20


class Linear(encodings.Encoding):
    """b[d] = -m d, a sum of products of one token's with the other's: -m i . 1 + m . j."""

    reals = True
    causal_only = True
    asked = 0

    def __init__(self):
        self.slopes = PerHead(jnp.asarray(np.random.default_rng(3).uniform(0.1, 1, N)))

    def bias(self, d):
        return -self.slopes[...] * d

    def factored_query(self, q_TH, positions_T):
        Linear.asked += 1
        slopes = jnp.broadcast_to(self.slopes[...], positions_T.shape)
        return jnp.stack([-slopes * positions_T, slopes], -1)

    def factored_key(self, positions_S):
        return jnp.stack([jnp.ones_like(positions_S), positions_S], -1)


class LinearBeside(Linear):
    """The same beside a bias of pairs, which blocks evaluate."""

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        return jnp.cos(q_positions[:, None] - k_positions[None])


def test_factors_stand_beside_a_bias_of_pairs():
    """What the factors say is not said again where blocks call the encoding."""
    kw = {"causal": True, "positions": POSITIONS["far"]}
    with jax.enable_x64(True):
        assert_paths_agree(LinearBeside(), kw, [BLOCKS], ["blockwise"])


@pytest.mark.parametrize("scale", [None, 0.0])
def test_a_bias_may_be_given_as_factors(scale):
    """In a sum with rotations too; where a scale of 0 leaves no way to it the bias itself is evaluated."""
    kw = {"causal": True, "positions": POSITIONS["far"], "scale": scale}
    with jax.enable_x64(True):
        rope = encodings.create("rope", num_heads=N, head_dim=H, rngs=nnx.Rngs(0))
        for encoding in (Linear(), encodings.Sum(rope, Linear())):
            before = Linear.asked
            assert_paths_agree(encoding, kw, [BLOCKS], ["blockwise"])
            assert (Linear.asked > before) == (scale is None)


def test_factors_stand_for_one_slot():
    class Both(Linear):
        def key_vectors(self, d):
            return jnp.ones((d.shape[0], H))

    q, k, v, _ = inputs(dtype=np.float32)
    with pytest.raises(ValueError, match=r"Both fills factored_key.*key_vectors or bias"):
        attention(q, k, v, encoding=Both(), causal=True)


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_beyond_a_band_read_one_value(causal):
    """Positions that rise in steps of 5: all blocks but those on the diagonal lie beyond a constant_beyond of 6."""
    with jax.enable_x64(True):
        kw = {"causal": causal, "positions": 5 * np.arange(T)}
        assert_paths_agree(EverySlot(), kw, [BLOCKS], ["blockwise"])
