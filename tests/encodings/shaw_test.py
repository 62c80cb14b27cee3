import pytest
from flax import nnx

from relpos import encodings
from tests import oracle


class Oracle(oracle.Oracle):
    def row(self, i, j):
        k = (len(self.p["keys"]) - 1) // 2
        return max(-k, min(k, j - i)) + k

    def logit(self, q, k, i, j, scale, x, row, column):
        return scale * float(q @ (k + self.p["keys"][self.row(i, j)]))

    def value(self, v, i, j):
        return v + self.p["values"][self.row(i, j)]


@pytest.mark.parametrize("k", [0, 3, 16])
def test_the_paper_has_two_tables_of_2k_plus_1_rows_shared_by_the_heads(k):
    encoding = encodings.create("shaw", num_heads=5, head_dim=7, rngs=nnx.Rngs(0), k=k)
    assert encoding.keys.shape == encoding.values.shape == (2 * k + 1, 7)
    assert (encoding.keys[...] != encoding.values[...]).any()
