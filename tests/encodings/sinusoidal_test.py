import math

import numpy as np
import pytest
from flax import nnx

from relpos import RelativeAttention
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"base": 50.0},)

    def embed(self, x, positions):
        out = np.array(x)
        D = x.shape[-1]
        for t, i in enumerate(positions):
            for c in range(D):
                angle = i / self.options.get("base", 10000) ** ((c - c % 2) / D)
                out[t, c] += math.sin(angle) if c % 2 == 0 else math.cos(angle)
        return out


def test_a_layer_refuses_what_only_a_models_input_can_take():
    with pytest.raises(ValueError, match=r"input.*embed"):
        RelativeAttention(2, 8, encoding="sinusoidal", rngs=nnx.Rngs(0))
