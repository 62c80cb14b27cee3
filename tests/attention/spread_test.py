import jax
import jax.numpy as jnp
import numpy as np
import pytest

from relpos.attention import spread

SIZES = [(1, 1), (1, 5), (5, 1), (3, 7), (7, 3), (11, 13), (16, 5)]


def numbers(*shape):
    return np.random.default_rng(0).normal(size=shape)


@pytest.mark.parametrize(("C", "K"), SIZES)
def test_each_operator_is_its_index_formula(C, K):
    L = C + K
    rows, columns, vector, block = numbers(C, L), numbers(K, L), numbers(L), numbers(C, K)
    at = np.arange(K)[None] + C - np.arange(C)[:, None]
    by_row = np.take_along_axis(rows, at, 1)
    by_column = np.take_along_axis(columns, at.T, 1).T
    sums, column_sums = np.zeros((C, L)), np.zeros((K, L))
    np.put_along_axis(sums, at, block, 1)
    np.put_along_axis(column_sums, at.T, block.T, 1)
    close = lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-6)  # noqa: E731
    close(spread.spread(jnp.array(rows)), by_row)
    close(spread.spread_columns(jnp.array(columns)), by_column)
    close(spread.spread_vector(jnp.array(vector), C), vector[at])
    close(spread.collect(jnp.array(block)), sums)
    close(spread.collect_columns(jnp.array(block)), column_sums)
    np.testing.assert_allclose(spread.collect_sum(jnp.array(block)), sums.sum(0), atol=1e-5)


@pytest.mark.parametrize("W", [1, 2, 5])
@pytest.mark.parametrize(("C", "K"), SIZES)
def test_a_band_is_constant_on_both_sides(C, K, W):
    rows, vector, block = numbers(C, W), numbers(W), numbers(C, K)

    @jax.jit
    def operators(rows, vector, block, offset):
        by_row = spread.spread_band(rows, offset, K)
        by_all = spread.spread_band_vector(vector, offset, C, K)
        return by_row, by_all, spread.collect_band(block, offset, W)

    for offset in (-40, -7, -1, 0, 2, 9, 40):
        at = np.clip(np.arange(K)[None] + offset - np.arange(C)[:, None], 0, W - 1)
        sums = np.zeros((C, W))
        np.add.at(sums, (np.arange(C)[:, None], at), block)
        by_row, by_all, collected = operators(rows, vector, block, np.int32(offset))
        np.testing.assert_allclose(by_row, np.take_along_axis(rows, at, 1), rtol=1e-6)
        np.testing.assert_allclose(by_all, vector[at], rtol=1e-6)
        np.testing.assert_allclose(collected, sums, atol=1e-5)


@pytest.mark.parametrize("first", [0, 1, 4])
@pytest.mark.parametrize(("C", "K"), [(1, 1), (1, 5), (3, 7), (7, 7)])
def test_a_ring_does_for_many_blocks_what_the_operators_do_for_one(C, K, first):
    """Products of a row with all distances, read block by block; sums by distance, written block by block."""
    blocks = 5
    products, matrix = numbers(C, C + blocks * K), numbers(C, blocks * K)
    whole = spread.spread(jnp.array(products)), spread.collect(jnp.array(matrix))
    read = spread.Ring.of(jnp.array(products[:, :C]), K)
    write = spread.Ring.of(jnp.zeros((C, 0)), K)
    found, sums = [], []
    for n in range(blocks):
        number = jnp.int32(first + n)
        read = read.push(number, jnp.array(products[:, C + n * K : C + (n + 1) * K]))
        found.append(read.spread(number))
        write = write.push(number, jnp.array(matrix[:, n * K : (n + 1) * K]))
        sums.append(write.collect(number, K))
    number = jnp.int32(first + blocks)
    sums.append(write.push(number, jnp.zeros((C, K))).collect(number, C))
    np.testing.assert_array_equal(jnp.concatenate(found, 1), whole[0])
    np.testing.assert_array_equal(jnp.concatenate(sums, 1), whole[1])


@pytest.mark.parametrize(("C", "K"), SIZES)
def test_collect_is_the_transpose_of_spread(C, K):
    x, p = jnp.array(numbers(C, C + K)), jnp.array(numbers(C, K))
    (expected,) = jax.linear_transpose(spread.spread, x)(p)
    np.testing.assert_allclose(spread.collect(p), expected, rtol=1e-6)
