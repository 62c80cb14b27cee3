import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"rank": 1},)

    def logit(self, q, k, i, j, scale, x, row, column):
        half = len(q) // 2
        angle = np.zeros(half)
        for t in range(column + 1, row + 1):
            angle += x[t] @ self.p["down"] @ self.of_key_head("up")
        q, k = q[:half] + 1j * q[half:], k[:half] + 1j * k[half:]
        return scale * float((q * k.conj() * np.exp(1j * angle)).real.sum())


def test_pairs_turn_together():
    with pytest.raises(ValueError, match="head_dim must be even, got 5"):
        encodings.create("selective_rope", num_heads=1, head_dim=5, rngs=nnx.Rngs(0))
