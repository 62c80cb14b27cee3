import importlib

import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"bias": "alibi"}, {"bias": "t5", "hidden": 5}, {"bias": "fire"})

    def mixed(self, products, bias_of_head):
        p = self.p
        heads = [bias_of_head(n) for n in range(self.heads)]
        out = np.concatenate([products, heads])
        hidden = np.concatenate([p["of_logits"], p["of_biases"]]).T @ out + p["hidden_offset"]
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
        n = self.head
        return products[n] + heads[n] + p["output"][n] @ hidden + p["offset"][n]

    def of_all_heads(self, q, keys, i, j, scale, x, row, column):
        """One logit of this head; q and the keys are those of all heads, [N, H]."""
        inner = self.options.get("bias", "kerple")
        scheme = importlib.import_module(f"tests.encodings.{inner}_test").Oracle
        nothing = np.zeros(q.shape[1])

        def bias_of_head(n):
            one = scheme(self.p["inner"], n, self.heads, {})
            return one.logit(nothing, nothing, i, j, 1.0, x, row, column)

        return self.mixed(scale * (q * keys).sum(-1), bias_of_head)


@pytest.mark.parametrize("bias", ["rope", "fox", "none", "shaw", "dape", "kerpel", ""])
def test_what_is_no_bias_is_refused(bias):
    with pytest.raises(ValueError, match=f"only adds a bias.*got '{bias}'"):
        encodings.create("dape", num_heads=2, head_dim=4, rngs=nnx.Rngs(0), bias=bias)
