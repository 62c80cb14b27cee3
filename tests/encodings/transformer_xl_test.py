import numpy as np

from tests import oracle


class Oracle(oracle.Oracle):
    def logit(self, q, k, i, j, scale, x, row, column):
        W, u, v = (self.p[name][self.head] for name in ("kernel", "u", "v"))
        D = W.shape[0]
        angles = [(i - j) / 10000 ** (2 * m / D) for m in range(D // 2)]
        R = np.concatenate([np.sin(angles), np.cos(angles)])
        return scale * float((q + u) @ k + (q + v) @ (R @ W))
