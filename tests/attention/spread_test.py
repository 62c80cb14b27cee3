import jax.numpy as jnp
import numpy as np
import pytest

from relpos.attention.spread import collect, spread, spread_columns, spread_vector

SIZES = [(1, 1), (1, 5), (5, 1), (3, 7), (7, 3), (11, 13)]


@pytest.mark.parametrize(("C", "K"), SIZES)
def test_each_operator_is_its_index_formula(C, K):
    random = np.random.default_rng(0)
    L = C + K - 1
    rows, columns, vector = (
        random.normal(size=(C, L)),
        random.normal(size=(K, L)),
        random.normal(size=L),
    )
    block = random.normal(size=(C, K))
    at = [[C - 1 - i + j for j in range(K)] for i in range(C)]
    by_row = [[rows[i, at[i][j]] for j in range(K)] for i in range(C)]
    by_column = [[columns[j, at[i][j]] for j in range(K)] for i in range(C)]
    shared = [[vector[at[i][j]] for j in range(K)] for i in range(C)]
    sums = np.zeros((C, L))
    for i in range(C):
        for j in range(K):
            sums[i, at[i][j]] += block[i, j]
    np.testing.assert_allclose(spread(jnp.array(rows)), by_row, rtol=1e-6)
    np.testing.assert_allclose(spread_columns(jnp.array(columns)), by_column, rtol=1e-6)
    np.testing.assert_allclose(spread_vector(jnp.array(vector), C), shared, rtol=1e-6)
    np.testing.assert_allclose(collect(jnp.array(block)), sums, rtol=1e-6)


@pytest.mark.parametrize(("C", "K"), SIZES)
def test_collect_is_the_transpose_of_spread(C, K):
    random = np.random.default_rng(1)
    x, p = random.normal(size=(C, C + K - 1)), random.normal(size=(C, K))
    left = (spread(jnp.array(x)) * p).sum()
    right = (x * collect(jnp.array(p))).sum()
    np.testing.assert_allclose(left, right, rtol=1e-5)
