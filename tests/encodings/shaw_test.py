import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests import oracle
from tests.attending import BLOCKS, assert_trees_close, inputs, make, value_and_grads


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"k": 3, "right": 1},
        {"k": 2, "right": 5, "per_head": True},
        {"keys": False},
        {"values": False},
    )

    def vector(self, name, i, j):
        if not self.options.get(name, True):
            return 0
        k = self.options.get("k", 16)
        table = self.p[name][self.head] if "per_head" in self.options else self.p[name]
        return table[max(-k, min(self.options.get("right", k), j - i)) + k]

    def logit(self, q, k, i, j, scale, x, row, column):
        return scale * float(q @ (k + self.vector("keys", i, j)))

    def value(self, v, i, j):
        return v + self.vector("values", i, j)


def created(**options):
    return encodings.create("shaw", num_heads=5, head_dim=7, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("k", [0, 3, 16])
def test_the_paper_has_two_tables_of_2k_plus_1_rows_shared_by_the_heads(k):
    """OpenNMT has one for keys and values."""
    encoding = created(k=k)
    assert encoding.keys.shape == encoding.values.shape == (2 * k + 1, 7)
    assert (encoding.keys[...] != encoding.values[...]).any()


def test_tables_per_head_start_as_wide_as_shared_ones():
    shared, per_head = (
        np.asarray(created(k=99, per_head=each).keys[...]) for each in (False, True)
    )
    assert per_head.shape == (5, 199, 7)
    assert (per_head[0] != per_head[1]).any()
    most = (6 / (199 + 7)) ** 0.5  # Glorot
    for table in (shared, per_head):
        assert 0.99 * most < np.abs(table).max() <= most


@pytest.mark.parametrize("path", ["blockwise", pytest.param("pallas", marks=pytest.mark.long)])
def test_paths_agree_with_tables_per_head_of_two_lengths(path):
    """No other scheme's values have vectors per head."""
    with jax.enable_x64(True):
        shaw = make("shaw", heads=2, key_heads=1, k=2, right=5, per_head=True)
        arrays = inputs(T=21, B=1, N=2, K=1)
        weight = jnp.asarray(np.random.default_rng(9).normal(size=arrays[0].shape))
        found, expected = (
            value_and_grads(shaw, arrays, weight, implementation=each, block_sizes=BLOCKS)
            for each in (path, "reference")
        )
        assert_trees_close(found, expected, 1e-10)


DISTANCES = np.array([-200, -9, -8, -7, -1, 0, 1, 63, 64, 65, 200])  # i - j


def test_rows_are_those_of_wav2vec2_bert():
    """distance_embedding of Hugging Face's: 64 to the left, 8 to the right."""
    shaw = created(k=64, right=8, values=False)
    theirs = np.asarray(shaw.keys[...])
    assert len(theirs) == 73
    row = np.clip(-DISTANCES, -64, 8) + 64
    np.testing.assert_array_equal(shaw.key_vectors(jnp.asarray(DISTANCES)), theirs[row])


def test_rows_are_those_of_speecht5_turned_round():
    """pe_k of Hugging Face's has 2 m rows and counts i - j: m - 1 keys of the past, m of the future."""
    m = 8
    shaw = created(k=m - 1, right=m, values=False)
    theirs = np.random.default_rng(0).normal(size=(2 * m, 7)).astype(np.float32)
    shaw.keys[...] = jnp.asarray(theirs[::-1])
    row = np.clip(DISTANCES, -m, m - 1) + m
    np.testing.assert_array_equal(shaw.key_vectors(jnp.asarray(DISTANCES)), theirs[row])


def test_nothing_to_the_right_is_a_clipping_distance_of_its_own():
    """-1 alone stands for k."""
    shaw = created(k=3, right=0)
    assert shaw.values.shape == (4, 7)
    of_keys = np.asarray(shaw.key_vectors(jnp.array([-3, 0, 1])))
    np.testing.assert_array_equal(of_keys, np.asarray(shaw.keys[...])[[3, 3, 2]])


@pytest.mark.parametrize("right", [-2, 2**30])
def test_the_right_clipping_distance_has_bounds(right):
    message = rf"shaw\.right.*, -1 for shaw\.k, must be from -1 to 1073741823, got {right}"
    with pytest.raises(ValueError, match=message):
        created(right=right)
