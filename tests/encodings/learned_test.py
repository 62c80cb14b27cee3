import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    def embed(self, x, positions):
        return np.stack(
            [row + self.p["table"][int(i)] for row, i in zip(x, positions, strict=True)]
        )


@pytest.mark.parametrize("position", [-1, 5, 2**31 - 1])
def test_a_position_outside_of_the_table_gives_nan_and_not_another_row(position):
    encoding = encodings.create("learned", num_heads=1, head_dim=3, rngs=nnx.Rngs(0), max_length=5)
    out = encoding.embed(jnp.zeros((2, 3)), jnp.array([4, position]))
    assert np.isfinite(out[0]).all()
    assert np.isnan(out[1]).all()
