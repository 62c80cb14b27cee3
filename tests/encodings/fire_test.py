import math

import numpy as np

from tests import oracle


class Oracle(oracle.Oracle):
    def logit(self, q, k, i, j, scale, x, row, column):
        p = self.p
        c, L = abs(p["c"]), abs(p["multiplier"] * 512)
        ratio = math.log(c * abs(i - j) + 1) / (math.log(c * max(i, L) + 1) + 1e-6)
        hidden = np.maximum(ratio * p["hidden_kernel"] + p["hidden_bias"], 0)
        bias = hidden @ p["output"][self.head] + p["offset"][self.head]
        return scale * float(q @ k) + bias
