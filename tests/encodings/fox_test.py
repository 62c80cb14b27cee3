import math

import numpy as np
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    def logit(self, q, k, i, j, scale, x, row, column):
        w, c = self.p["weight"][self.head], self.p["offset"][self.head]
        forgotten = sum(
            math.log(1 / (1 + math.exp(-(w @ x[t] + c)))) for t in range(column + 1, row + 1)
        )
        return scale * float(q @ k) + forgotten


def test_where_it_starts():
    fox = encodings.create("fox", num_heads=3, head_dim=50, rngs=nnx.Rngs(0), initial_offset=2.5)
    np.testing.assert_array_equal(fox.offset[...], [2.5] * 3)
    np.testing.assert_allclose(fox.weight[...].std(), 150**-0.5, rtol=0.15)
