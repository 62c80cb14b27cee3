import math

import jax.numpy as jnp
import pytest
from flax import nnx

from relpos import encodings
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
    def logit(self, q, k, i, j, scale, x, row, column):
        return scale * float(q @ k) + self.p["table"][self.head][bucket(i - j, 32, 128, False)]


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


@pytest.mark.parametrize(("buckets", "distance"), [(1, 128), (0, 128), (-2, 3), (32, 16)])
def test_sizes_that_leave_no_buckets_are_refused(buckets, distance):
    with pytest.raises(ValueError, match="num_buckets"):
        encodings.create(
            "t5",
            num_heads=1,
            head_dim=2,
            rngs=nnx.Rngs(0),
            num_buckets=buckets,
            max_distance=distance,
        )
