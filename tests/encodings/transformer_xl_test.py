import math

import numpy as np

from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"base": 300.0}, {"clamp": 7})

    def logit(self, q, k, i, j, scale, x, row, column):
        W, u, v = (self.p[name][self.head] for name in ("kernel", "u", "v"))
        D = W.shape[0]
        most = self.options.get("clamp") or math.inf
        d = max(-most, min(most, i - j))
        angles = [d / self.options.get("base", 10000) ** (2 * m / D) for m in range(D // 2)]
        R = np.concatenate([np.sin(angles), np.cos(angles)])
        return scale * float((q + u) @ k + (q + v) @ (R @ W))
