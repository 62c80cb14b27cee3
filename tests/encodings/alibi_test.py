import numpy as np
import pytest

from relpos.encodings.alibi import paper_slopes
from tests import oracle

EIGHT = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
# For 12 heads the authors' code takes those of 8 and every other of 16.
TWELVE = [*EIGHT, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]


SLOPES = {1: [2**-8], 6: [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3]}


class Oracle(oracle.Oracle):
    VARIANTS = ({"literal_slopes": True}, {"learned": True})

    def logit(self, q, k, i, j, scale, x, row, column):
        m = SLOPES[self.heads][self.head]
        if "literal_slopes" in self.options:
            # As the encoding has them: float32.
            m = float(np.float32(2 ** (-8 * (self.head + 1) / self.heads)))
        if "learned" in self.options:
            m = self.p["slopes"][self.head]
        return scale * float(q @ k) - m * abs(i - j)


@pytest.mark.parametrize(("heads", "slopes"), [(1, [2**-8]), (8, EIGHT), (12, TWELVE)])
def test_slopes_are_the_papers(heads, slopes):
    assert paper_slopes(heads) == pytest.approx(slopes, rel=1e-12)
