import math

import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"extent": 9, "rank": 3}, {"log_floor": 4, "log_alpha": 0.3, "extent": 20})

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"extent": 1024, "log_floor": 0, "log_alpha": 0.1} | self.options
        mixed = x[row] @ self.p["kernel"][self.head]
        bias = float(mixed @ self.p["profiles"][i - j]) if i - j < chosen["extent"] else 0.0
        tau = 1.0
        if chosen["log_floor"]:
            tau += chosen["log_alpha"] * math.log(max((i + 1) / chosen["log_floor"], 1.0))
        return tau * (scale * float(q @ k) + bias)


@pytest.mark.parametrize("option", ["rank", "extent"])
def test_nothing_of_length_zero(option):
    with pytest.raises(ValueError, match=f"inkling.{option} must be at least 1"):
        encodings.create("inkling", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), **{option: 0})
