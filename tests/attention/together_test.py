"""Encodings that mix the logits of all heads: what holds for any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests.attending import (
    BLOCKS,
    EverySlot,
    N,
    assert_trees_close,
    attend,
    inputs,
    value_and_grads,
)
from tests.contract_attention_test import SETTINGS, assert_paths_agree, key_heads


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


class TalkingHeads(EverySlot):
    """Every slot, and Shazeer et al. 2020, "Talking-Heads Attention", arXiv:2003.02436, before the softmax."""

    def __init__(self, key_heads, projection=None):
        super().__init__(key_heads)
        own = np.random.default_rng(6).normal(size=(N, N))
        self.projection = nnx.Param(jnp.asarray(own if projection is None else projection))

    def mix(self, logits_NCK, bias_NCK):
        return jnp.tensordot(self.projection[...], logits_NCK + jnp.sin(bias_NCK), 1)


QUICK = ("window of two sides", "scattered, packed, windowed", "cross, causal")


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.long) for kind in SETTINGS],
)
def test_paths_agree_with_every_slot_at_once(kind):
    assert_paths_agree(TalkingHeads(key_heads(kind)), kind, [BLOCKS], ["blockwise"])


class Silent(EverySlot):
    """Heads are computed together, and say nothing to each other."""

    def mix(self, logits_NCK, bias_NCK):
        return logits_NCK + bias_NCK


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("path", ["reference", "blockwise"])
def test_heads_that_say_nothing_are_heads_by_themselves(path):
    arrays = inputs()
    weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
    kw = {"causal": True, "dropout_rate": 0.3, "dropout_key": jax.random.key(7), "softcap": 3.0}
    kw |= {"implementation": path, "block_sizes": BLOCKS}
    found, expected = (
        value_and_grads(kind(), arrays, weight, **kw) for kind in (Silent, EverySlot)
    )
    assert_trees_close(found, expected, 1e-10)


class Shared(encodings.Encoding):
    """No parameters, no bias: the mean of all heads' logits."""

    def __init__(self):
        pass

    def mix(self, logits_NCK, bias_NCK):
        assert bias_NCK is None
        return jnp.broadcast_to(logits_NCK.mean(0), logits_NCK.shape)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("path", ["reference", "blockwise"])
def test_without_a_bias_there_is_none(path):
    q, k, v, x = inputs()
    N, K, H = q.shape[2], k.shape[2], q.shape[3]
    found = attend(Shared(), q, k, v, x, causal=True, implementation=path, block_sizes=BLOCKS)
    # The mean of all heads' logits is that of one head as wide as all, of any values.
    one_head = lambda x: x.reshape(*x.shape[:2], 1, -1)  # noqa: E731
    wide = one_head(jnp.repeat(k, N // K, 2))
    expected = attention(one_head(q), wide, one_head(v), causal=True, scale=H**-0.5 / N)
    expected = jnp.repeat(expected.reshape(*v.shape), N // K, 2)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_kernels_refuse_a_mix_by_name():
    q, k, v, _ = inputs(dtype=np.float32)
    with pytest.raises(ValueError, match="Shared: it mixes the logits of all heads"):
        attention(q, k, v, encoding=Shared(), implementation="pallas")


class Both(Shared):
    def walk(
        self, carry, q_CH, k_KH, q_positions, k_positions, q_features, k_features, seen_CK, scale
    ):
        return encodings.Passed(None, None, carry)


def test_a_walk_that_mixes_is_refused():
    q, k, v, _ = inputs(dtype=np.float32)
    with pytest.raises(ValueError, match="Both fills walk"):
        attention(q, k, v, encoding=Both(), causal=True)
