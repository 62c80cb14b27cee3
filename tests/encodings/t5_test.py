import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests import oracle


def bucket(d, buckets, max_distance, bidirectional):
    """From the paper's text and its code, in exact steps of one bucket."""
    offset = 0
    if bidirectional:
        buckets //= 2
        if d < 0:
            offset = buckets
        n = abs(d)
    else:
        n = max(d, 0)
    e = buckets // 2
    if n < e:
        return offset + n
    share = math.log(n / e) / math.log(max_distance / e) * (buckets - e)
    return offset + min(buckets - 1, e + math.floor(share + 1e-12))


class Oracle(oracle.Oracle):
    VARIANTS = ({"num_buckets": 8, "max_distance": 20}, {"bidirectional": True})

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"num_buckets": 32, "max_distance": 128, "bidirectional": False} | self.options
        return scale * float(q @ k) + self.p["table"][self.head][bucket(i - j, *chosen.values())]


def test_the_future_wants_buckets_of_its_own():
    q = jnp.ones((1, 4, 1, 2))
    make = lambda **kw: encodings.create("t5", num_heads=1, head_dim=2, rngs=nnx.Rngs(0), **kw)  # noqa: E731
    with pytest.raises(ValueError, match=r"causal=True.*bidirectional=True"):
        attention(q, q, q, encoding=make())
    attention(q, q, q, encoding=make(bidirectional=True))


@pytest.mark.parametrize("head_dim", [4, 64])
def test_the_bias_is_what_the_table_says_for_heads_of_any_size(head_dim):
    """x-transformers multiplies it by the square root of the size."""
    t5 = encodings.create("t5", num_heads=1, head_dim=head_dim, rngs=nnx.Rngs(0))
    zeros, one_each = jnp.zeros((1, 4, 1, head_dim)), jnp.eye(4, head_dim)[None, :, None]
    weights = attention(zeros, zeros, one_each, encoding=t5, causal=True)[0, 3, 0, :4]
    of_distances = t5.table[0, jnp.array([3, 2, 1, 0])]
    np.testing.assert_allclose(weights, jax.nn.softmax(of_distances), rtol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("buckets", "max_distance"), [(32, 128), (32, 256), (16, 64), (7, 20), (9, 5), (4, 100)]
)
def test_every_distance_falls_into_the_papers_bucket(buckets, max_distance, bidirectional):
    encoding = encodings.create(
        "t5", num_heads=1, head_dim=2, rngs=nnx.Rngs(0),
        num_buckets=buckets, max_distance=max_distance, bidirectional=bidirectional,
    )  # fmt: skip
    d = list(range(-2 * max_distance, 2 * max_distance + 1))
    expected = [bucket(each, buckets, max_distance, bidirectional) for each in d]
    assert encoding.bucket(jnp.array(d)).tolist() == expected


@pytest.mark.parametrize("name", ["t5", "tupe"])  # tupe has the buckets of t5
@pytest.mark.parametrize(
    ("both", "buckets", "distance", "wrong"),
    [
        (False, 1, 128, "num_buckets"), (False, -2, 3, "num_buckets"), (False, 2**16 + 1, 2**17, "num_buckets"),
        (True, 3, 128, "num_buckets"), (False, 32, 16, "max_distance"), (True, 32, 8, "max_distance"),
    ],
)  # fmt: skip
def test_sizes_that_leave_no_buckets_are_refused(name, both, buckets, distance, wrong):
    with pytest.raises(ValueError, match=rf"^{name}\.{wrong} must be"):
        encodings.create(
            name,
            num_heads=1,
            head_dim=2,
            rngs=nnx.Rngs(0),
            num_buckets=buckets,
            max_distance=distance,
            bidirectional=both,
        )
