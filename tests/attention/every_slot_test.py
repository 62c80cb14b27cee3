"""Every slot at once, in every setting of the contract: the paths agree on what does not depend on the scheme."""

import jax
import pytest

from tests.attending import BLOCKS, EverySlot, N
from tests.contract_attention_test import FAST, SETTINGS, assert_paths_agree, key_heads


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# What every scheme is seen in, and what another setting has beside other things, is left to the long tests. Of one head
# where that is all a setting needs.
QUICK = {
    "causal": N, "an order of its own, dropout": N,
    "scattered, packed, window of two sides": N, "cross, fewer queries, softcap and scale": 1, "cross, causal": 1,
    "from anywhere, packed, windowed": N,
}  # fmt: skip
# Interpreted kernels take long to compile: of them the quick tests see these settings, the long ones all.
SEEN_BY_KERNELS = (
    "causal", "scattered, packed, window of two sides", "cross, causal",
    "an order of its own, dropout",
)  # fmt: skip
MORE_BLOCKS = {"cross, causal": [(16, 8), (64, 64)]}


@pytest.mark.parametrize("kind", QUICK)
def test_paths_agree_with_every_slot_at_once(kind):
    paths = [path for path in FAST if path != "pallas" or kind in SEEN_BY_KERNELS]
    encoding, more = EverySlot(key_heads(kind), heads=QUICK[kind]), MORE_BLOCKS.get(kind, [])
    assert_paths_agree(encoding, kind, [BLOCKS], paths, heads=QUICK[kind], blockwise=more)


@pytest.mark.long
@pytest.mark.parametrize("kind", SETTINGS)
def test_paths_agree_with_every_slot_at_once_in_every_setting(kind):
    encoding = EverySlot(key_heads(kind))
    assert_paths_agree(encoding, kind, [BLOCKS, (16, 8), (64, 64)], ["blockwise"])


@pytest.mark.long
@pytest.mark.parametrize("kind", SETTINGS)
def test_kernels_agree_with_every_slot_at_once(kind):
    assert_paths_agree(EverySlot(key_heads(kind)), kind, [BLOCKS, (4, 8)])
