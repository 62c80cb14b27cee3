import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"k": 3}, {"k": 0})

    def logit(self, q, k, i, j, scale, x, row, column):
        most = self.options.get("k", 511)
        a = self.p["table"][min(max(j - i, -most), most) + most]
        return scale * float(q @ k + q @ a + k @ a)


def make(heads=1, head_dim=4, **options):
    return encodings.create(
        "huang", num_heads=heads, head_dim=head_dim, rngs=nnx.Rngs(0), **options
    )


def test_one_table_of_the_authors_size_and_spread_for_all_heads():
    table = np.asarray(make(3, 64).table[...])
    assert table.shape == (2 * 512 - 1, 64)
    np.testing.assert_allclose(table.std(), 0.02, rtol=0.02)


def test_a_table_of_hugging_face_stands_the_other_way_round():
    """There row i - j + 511 is that of the query at i and the key at j, for both products."""
    huang, theirs = make(), np.random.default_rng(0).normal(size=(1023, 4)).astype(np.float32)
    huang.table[...] = jnp.asarray(theirs[::-1])
    d = np.array([-511, -2, 0, 1, 511])  # i - j
    for vectors in (huang.key_vectors, huang.query_vectors):
        np.testing.assert_array_equal(vectors(jnp.asarray(d)), theirs[d + 511])


def test_vectors_do_not_meet_each_other():
    """(q + a) . (k + a) has a term a . a; where queries and keys are zero every key would not weigh the same."""
    v = jnp.arange(6.0).reshape(1, 6, 1, 1) * jnp.ones(4)
    out = attention(0 * v, 0 * v, v, encoding=make(k=2))
    np.testing.assert_allclose(out, 2.5, rtol=1e-6)


@pytest.mark.parametrize("k", [-1, 2**30])
def test_a_clipping_distance_has_bounds(k):
    with pytest.raises(ValueError, match=rf"huang\.k.* from 0 to 1073741823, got {k}"):
        make(k=k)
