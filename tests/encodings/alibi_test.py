import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.encodings.alibi import paper_slopes
from tests import oracle

EIGHT = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
# For 12 heads the authors' code takes those of 8 and every other of 16.
TWELVE = [*EIGHT, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


SLOPES = {1: [2**-8], 6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]}


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"literal_slopes": True},
        {"learned": True, "asymmetric": True},
        {"slopes": (0.5, 1, 0.125, 0, 2, 0.25), "right_slopes": (1, 0.25, 4, 0.5, 0, 2)},
    )

    def logit(self, q, k, i, j, scale, x, row, column):
        m = SLOPES[self.heads][self.head]
        if "literal_slopes" in self.options:
            # As the encoding has them: float32.
            m = float(np.float32(2 ** (-8 * (self.head + 1) / self.heads)))
        if "learned" in self.options:
            m = self.p["slopes" if j <= i else "right_slopes"][self.head]
        if "slopes" in self.options:
            m = self.options["slopes" if j <= i else "right_slopes"][self.head]
        return scale * float(q @ k) - m * abs(i - j)


@pytest.mark.parametrize(("heads", "slopes"), [(1, [2**-8]), (8, EIGHT), (12, TWELVE)])
def test_slopes_are_the_papers(heads, slopes):
    assert paper_slopes(heads) == pytest.approx(slopes, rel=1e-12)


def make(**options):
    return encodings.create("alibi", num_heads=2, head_dim=4, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize(
    ("options", "past", "future"),
    [({}, (2**-4, 2**-8), (2**-4, 2**-8)), ({"right_slopes": (3.0, 0.5)}, (2**-4, 2**-8), (3.0, 0.5)),
     ({"slopes": (2.0, 1.0), "learned": True, "asymmetric": True}, (2.0, 1.0), (2.0, 1.0))],
)  # fmt: skip
def test_the_future_has_slopes_of_its_own_where_they_are_asked_for(options, past, future):
    d = jnp.array([3, 0, -3])
    found = encodings.biases(make(**options), d)
    expected = [[-3 * m, 0, -3 * r] for m, r in zip(past, future, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"asymmetric": True},
        {"asymmetric": True, "slopes": (2.0, 1.0)},
        {"right_slopes": (3.0, 0.5)},
    ],
)
def test_learned_slopes_of_either_side_are_numbers_of_their_own(options):
    encoding = make(learned=True, **options)
    gradient = nnx.grad(lambda e: encodings.biases(e, jnp.array([3, 0, -5])).sum())(encoding)
    found = nnx.to_pure_dict(gradient)
    np.testing.assert_array_equal(found["slopes"], [-3, -3])
    np.testing.assert_array_equal(found["right_slopes"], [-5, -5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slopes": (1.0,)}, r"alibi\.slopes must be 2 numbers, one for each head, got 1"),
        ({"right_slopes": (1.0,) * 3}, r"alibi\.right_slopes must be 2 numbers"),
        (
            {"slopes": (1.0, float("inf"))},
            r"alibi\.slopes must be numbers of at most 1e\+28, got inf",
        ),
        ({"slopes": (1.0, 10**400)}, r"alibi\.slopes must be numbers of at most"),
        ({"right_slopes": (1.0, True)}, r"alibi\.right_slopes must be numbers.*True"),
        ({"slopes": (1.0, 1e29)}, r"alibi\.slopes must be numbers of at most"),
        ({"slopes": ("1", "2")}, r"alibi\.slopes must be numbers.*'1'"),
        ({"slopes": (1.0, 2.0), "literal_slopes": True}, r"alibi\.literal_slopes, not both"),
        ({"asymmetric": True}, r"alibi\.asymmetric needs slopes that differ"),
    ],
)
def test_slopes_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)
