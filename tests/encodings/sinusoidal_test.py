import math

import numpy as np

from tests import oracle


class Oracle(oracle.Oracle):
    def embed(self, x, positions):
        out = np.array(x)
        D = x.shape[-1]
        for t, i in enumerate(positions):
            for c in range(D):
                angle = int(i) / 10000 ** ((c - c % 2) / D)
                out[t, c] += math.sin(angle) if c % 2 == 0 else math.cos(angle)
        return out
