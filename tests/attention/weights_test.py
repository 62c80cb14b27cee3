"""Attributes of an encoding that concern all weights: not divided by their sum, none for the query's own place."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.attention import NoKernelError
from relpos.encodings import Dims, Encoding
from tests.attending import BLOCKS, EverySlot, H, N, attend, inputs
from tests.contract_attention_test import SCATTERED, assert_paths_agree


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Whole(EverySlot):
    normalized = False


class Bare(Encoding):
    normalized = False


class Others(EverySlot):
    sees_itself = False


class Mixing(Whole):
    sees_itself = False
    constant_beyond = None

    def value_vectors(self, d):
        return None

    def mix(self, logits_NCK, bias_NCK):
        return 0.5 * logits_NCK + bias_NCK - 0.3 * jnp.roll(logits_NCK, 1, 0)


class Drained(Whole):
    def sink(self):
        return jnp.zeros(())


KINDS = {
    "rows": {"causal": True, "B": 1},
    "both sides": {"window": (6, 3), "B": 1},
    "scattered": {"causal": True, "positions": SCATTERED[:1], "B": 1},
}


# Each attribute alone is quick in one kind of call, both together in every kind.
ALONE = [(Whole, "scattered"), (Others, "both sides")]


@pytest.mark.parametrize(
    ("scheme", "kind"),
    [
        pytest.param(
            scheme, kind, marks=() if scheme is Mixing or (scheme, kind) in ALONE else pytest.mark.long
        )
        for scheme in (Whole, Others, Mixing)
        for kind in KINDS
    ],
)  # fmt: skip
def test_paths_agree(scheme, kind):
    assert_paths_agree(scheme(), KINDS[kind], [BLOCKS], ["blockwise"])


@pytest.mark.parametrize("path", ["reference", "blockwise"])
def test_weights_are_the_exponentials_of_logits(path):
    q, k, v, x = inputs(N=1, K=1, B=1)
    bare = Bare(dims=Dims(num_heads=1, head_dim=H, features=H), rngs=nnx.Rngs(0))
    found = attend(bare, q, k, v, x, causal=True, implementation=path, block_sizes=BLOCKS)
    logits = np.asarray(q[0, :, 0] @ k[0, :, 0].T) / H**0.5
    np.testing.assert_allclose(found[0, :, 0], np.tril(np.exp(logits)) @ v[0, :, 0], rtol=1e-10)


def test_kernels_hide_a_query_from_itself_and_refuse_weights_without_a_sum():
    assert_paths_agree(Others(), KINDS["rows"], [BLOCKS], ["pallas"])
    with pytest.raises(
        NoKernelError, match=r"Whole: its weights are not divided by their sum.*\"auto\""
    ):
        attend(Whole(), *inputs(), causal=True, implementation="pallas")


def test_a_sink_takes_no_share_of_what_has_no_sum():
    with pytest.raises(
        ValueError, match=r"Drained has both an attention sink.*only one of the two"
    ):
        attend(Drained(), *inputs(N=N), causal=True)
