import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"k": 3}, {"keys": False}, {"values": False})

    def vector(self, name, i, j):
        k = self.options.get("k", 16)
        return self.p[name][max(-k, min(k, j - i)) + k] if self.options.get(name, True) else 0

    def logit(self, q, k, i, j, scale, x, row, column):
        return scale * float(q @ (k + self.vector("keys", i, j)))

    def value(self, v, i, j):
        return v + self.vector("values", i, j)


@pytest.mark.parametrize("k", [0, 3, 16])
def test_the_paper_has_two_tables_of_2k_plus_1_rows_shared_by_the_heads(k):
    encoding = encodings.create("shaw", num_heads=5, head_dim=7, rngs=nnx.Rngs(0), k=k)
    assert encoding.keys.shape == encoding.values.shape == (2 * k + 1, 7)
    assert (encoding.keys[...] != encoding.values[...]).any()
