import jax.numpy as jnp
import numpy as np
import pytest

from relpos import attention, encodings
from tests import oracle
from tests.attending import attend, inputs, make


class Oracle(oracle.Oracle):
    VARIANTS = ({"initial": -1.0},)

    def sink(self):
        return float(self.p["logit"][self.head])


def test_a_row_that_sees_nothing_is_zero():
    q, k, v, x = inputs(dtype=np.float32)
    segments = np.zeros((2, 37), int)
    kw = {"q_segments": segments, "k_segments": segments}
    for path in ("reference", "blockwise"):
        out = attend(make("sink", dtype=jnp.float32), q, k, v, x, implementation=path, **kw)
        assert not np.asarray(out).any()


def test_kernels_refuse_it_by_name():
    q, k, v, _ = inputs(dtype=np.float32)
    with pytest.raises(ValueError, match="has an attention sink"):
        attention(q, k, v, encoding=make("sink", dtype=jnp.float32), implementation="pallas")


def test_two_sinks_are_one_for_both():
    q, k, v, x = inputs(dtype=np.float32)
    alone, both = make("sink", dtype=jnp.float32), make("sink+sink", dtype=jnp.float32)
    for part in both.parts:
        part.logit[...] = alone.logit[...] - np.log(2)
    expected = attend(alone, q, k, v, x, causal=True)
    np.testing.assert_allclose(attend(both, q, k, v, x, causal=True), expected, atol=1e-6)
    assert encodings.options("sink") == {"initial": 0.0}
