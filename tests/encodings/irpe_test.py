import math

import jax.numpy as jnp
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention.slots import each_head
from tests import oracle


def g(x, alpha, beta, gamma):
    """The paper's piecewise index function, rounded and cut as in its code."""
    if abs(x) <= alpha:
        return round(x)
    grown = round(alpha + math.log(abs(x) / alpha) / math.log(gamma / alpha) * (beta - alpha))
    return int(math.copysign(min(beta, grown), x))


SUMS = sorted({a * a + b * b for a in range(200) for b in range(200)})


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"method": "cross", "shared": True, "width": 5},
        {"method": "euclidean", "alpha": 2.0, "beta": 5.5, "gamma": 20.0, "width": 6},
        {"method": "quantization", "beta": 6.0, "gamma": 40.0, "width": 6},
        {"method": "squares", "width": 6, "outside": True},
    )

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"method": "product", "alpha": 1.9, "beta": 3.8, "gamma": 15.2, "width": 14}
        chosen |= self.options
        (y, x), (v, u) = divmod(i, chosen["width"]), divmod(j, chosen["width"])
        dy, dx = y - v, x - u
        number = lambda n: g(n, *(chosen[name] for name in ("alpha", "beta", "gamma")))  # noqa: E731
        table = self.p["table"] if "shared" in chosen else self.p["table"][self.head]
        last = int(chosen["beta"])
        squares = dy * dy + dx * dx
        match chosen["method"]:
            case "product":
                side = 2 * last + 1
                bias = table[(number(dy) + last) * side + number(dx) + last]
            case "cross":
                rows, columns = table[: 2 * last + 1], table[2 * last + 1 :]
                bias = rows[number(dy) + last] + columns[number(dx) + last]
            case "euclidean":
                bias = table[number(round(math.sqrt(squares)))]
            case "quantization":
                bias = table[number(SUMS.index(squares))]
            case "squares":
                bias = table[number(squares)]
        return scale * float(q @ k) + bias


def make(**options):
    return encodings.create("irpe", num_heads=1, head_dim=4, rngs=nnx.Rngs(0), **options)


def places(irpe, q, k):
    """Which row of the table each pair reads."""
    irpe.table[...] = jnp.arange(irpe.table.size, dtype=float).reshape(irpe.table.shape)
    q, k = jnp.asarray(q), jnp.asarray(k)
    return each_head(lambda one: one.block_bias(q, k, None, None), irpe)[0].astype(int)


def test_buckets_are_those_of_the_authors_numbers():
    """alpha : beta : gamma = 1 : 2 : 8, ratio 1.9: 7 numbers for each axis, 49 for both."""
    irpe = make()
    assert irpe.table.shape == (1, 49)
    assert not irpe.table[...].any()
    columns = [[0, x] for x in range(-7, 8)]
    found = places(irpe, columns, [[0, 0]])[:, 0] - 21  # the middle row
    assert found.tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 6, 6, 6]
    # A query below its key is in a later row of the table.
    assert places(irpe, [[1, 0]], [[0, 0]]).tolist() == [[24 + 7]]


@pytest.mark.parametrize(
    ("method", "squares"),
    [  # 0, 1, 1.41, 2, 2.24, 2.83, 3 apart
        ("euclidean", [0, 1, 1, 2, 2, 2, 2]),
        ("quantization", [0, 1, 2, 2, 3, 3, 3]),
        ("squares", [0, 1, 2, 3, 3, 3, 3]),
    ],
)
def test_methods_without_directions(method, squares):
    irpe = make(method=method)
    assert irpe.table.shape == (1, 4)
    at = [[0, 0], [0, 1], [-1, 1], [2, 0], [1, 2], [-2, -2], [0, -3]]
    assert places(irpe, at, [[0, 0]])[:, 0].tolist() == squares


def test_a_token_outside_of_the_image_has_a_bucket_of_its_own():
    assert places(make(outside=True, width=2), [-1, 0], [-1, 0]).tolist() == [[49, 49], [49, 24]]


def test_far_offsets_fall_into_the_last_bucket():
    for method in ("product", "euclidean", "quantization", "squares"):
        far = places(make(method=method), [[2**30, 2**30]], [[-(2**30) + 1, 0]])
        assert far.tolist() == [[48 if method == "product" else 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"method": "cros"},
            r"unknown irpe\.method 'cros': did you mean 'cross'\? known: product, cross",
        ),
        ({"alpha": 0.0}, r"irpe\.alpha must be above 0 and below irpe\.gamma"),
        ({"gamma": 1.0}, r"irpe\.alpha must be above 0 and below irpe\.gamma.*gamma 1\.0"),
        ({"beta": 1.5}, r"irpe\.beta, the last bucket, must be from 1.*got beta 1\.5, alpha 1\.9"),
        ({"width": 0}, r"irpe\.width must be at least 1, got 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
