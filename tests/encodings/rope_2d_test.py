import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests import oracle


def turn(x, row, column, base=100.0, layout="interleaved", frequencies=None):
    """The paper's rotation, a pair of dimensions at a time; frequencies: of rows and of columns."""
    M = len(x) // 2
    of_columns = M - M // 2
    out = np.array(x, np.float64)
    for m in range(M):
        a, b = (m, m + M) if layout == "half" else (2 * m, 2 * m + 1)
        if frequencies is not None:
            angle = row * frequencies[0][m] + column * frequencies[1][m]
        elif m < of_columns:
            angle = column * base ** (-4 * m / len(x))
        else:
            angle = row * base ** (-4 * (m - of_columns) / len(x))
        out[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        out[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return out


class Oracle(oracle.Oracle):
    VARIANTS = ({"mixed": True}, {"width": 5, "base": 50.0, "layout": "half"})

    def logit(self, q, k, i, j, scale, x, row, column):
        options = dict(self.options)
        width = options.pop("width", 14)
        if options.pop("mixed", False):
            options["frequencies"] = self.p["frequencies"][self.head]
        q = turn(q, i // width, i % width, **options)
        return scale * float(q @ turn(k, j // width, j % width, **options))


def make(**options):
    return encodings.create("rope_2d", num_heads=4, head_dim=8, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_and_columns_turn_as_in_the_paper_and_shifting_the_image_changes_nothing(mixed):
    with jax.enable_x64(True):
        encoding, random = make(mixed=mixed), np.random.default_rng(0)
        q, k, v = (jnp.asarray(random.normal(size=(2, 9, n, 8))) for n in (4, 2, 2))
        at = random.uniform(-3, 9, (2, 9, 2))
        found, shifted = (
            attention(q, k, v, encoding=encoding, q_positions=x, k_positions=x)
            for x in (at, at + np.array([20.0, -7.5]))
        )
        np.testing.assert_allclose(shifted, found, atol=1e-10)
        for b, n in np.ndindex(2, 4):
            f = np.asarray(encoding.frequencies[n], float) if mixed else None
            turned = lambda x, b=b, f=f: [  # noqa: E731
                turn(row, *place, frequencies=f) for row, place in zip(x, at[b], strict=True)
            ]
            logits = np.array(turned(q[b, :, n])) @ np.array(turned(k[b, :, n // 2])).T / 8**0.5
            weights = np.exp(logits)
            expected = weights / weights.sum(1, keepdims=True) @ v[b, :, n // 2]
            np.testing.assert_allclose(found[b, :, n], expected, atol=1e-10)


def test_one_number_is_a_place_of_a_grid_read_row_by_row():
    q = jax.random.normal(jax.random.key(0), (1, 12, 4, 8))
    grid = jnp.stack(jnp.divmod(jnp.arange(12), 5), -1)
    in_row, in_grid = (
        attention(q, q, q, encoding=make(width=5), q_positions=at, k_positions=at)
        for at in (None, grid)
    )
    np.testing.assert_allclose(in_row, in_grid, atol=1e-6)
    with pytest.raises(ValueError, match="must be an integer: give positions"):
        attention(q, q, q, encoding=make(), q_positions=grid[:, 0] / 2, k_positions=grid[:, 0] / 2)


def test_mixed_frequencies_start_at_right_angles_and_as_fast_as_axial_ones():
    rows, columns = np.moveaxis(np.asarray(make(mixed=True).frequencies[...]), 1, 0)
    np.testing.assert_allclose(np.hypot(rows, columns), np.tile([[1, 10**-0.5]], (4, 2)), rtol=1e-5)
    first, second = np.split(rows, 2, 1), np.split(columns, 2, 1)
    np.testing.assert_allclose(first[0] * first[1] + second[0] * second[1], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"width": 0}, "width must be at least 1"), ({"layout": "pairs"}, "unknown rope_2d.layout"),
     ({"base": 0.5}, "rope_2d.base must be at least 1")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("size", [2, 7])
def test_a_head_without_pairs_for_both_axes_is_refused(size):
    with pytest.raises(ValueError, match="even and at least 4"):
        encodings.create("rope_2d", num_heads=1, head_dim=size, rngs=nnx.Rngs(0))
