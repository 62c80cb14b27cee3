import math

import numpy as np
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"hidden": 7, "initial_c": 0.4, "initial_threshold": 20.0, "epsilon": 0.5},)

    def logit(self, q, k, i, j, scale, x, row, column):
        p = self.p
        c, L = abs(p["c"]), abs(p["multiplier"] * self.options.get("initial_threshold", 512))
        epsilon = self.options.get("epsilon", 1e-6)
        ratio = math.log(c * abs(i - j) + 1) / (math.log(c * max(i, L) + 1) + epsilon)
        hidden = np.maximum(ratio * p["hidden_kernel"] + p["hidden_bias"], 0)
        bias = hidden @ p["output"][self.head] + p["offset"][self.head]
        return scale * float(q @ k) + bias


def test_where_it_starts():
    fire = encodings.create("fire", num_heads=64, head_dim=2, rngs=nnx.Rngs(0), initial_c=0.4)
    assert float(fire.c[...]) == np.float32(0.4)
    assert float(fire.multiplier[...]) == 1
    assert np.abs(fire.hidden_kernel[...]).max() <= 1
    assert 0.9 * 32**-0.5 < np.abs(fire.output[...]).max() <= 32**-0.5
