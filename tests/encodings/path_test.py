import math

import numpy as np

from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"rank": 0}, {"rank": 5})

    def reflection(self, x):
        x_rank = x @ self.p["down"] if "down" in self.p else x
        w = x_rank @ self.of_key_head("up")
        w = w / np.linalg.norm(w)
        beta = 2 / (1 + math.exp(-(self.of_key_head("weight") @ x + self.of_key_head("offset"))))
        return np.eye(len(w)) - beta * np.outer(w, w)

    def logit(self, q, k, i, j, scale, x, row, column):
        return self.logits(q, [k], i, [j], scale, x, row, [column])[0]

    def logits(self, q, keys, i, js, scale, x, row, columns):
        """From the last key to the first: what reaches a key has been turned on the way to those behind it."""
        found, at = [], row
        for k, column in reversed(list(zip(keys, columns, strict=True))):
            for t in range(at, column, -1):
                q = self.reflection(x[t]) @ q
            at = min(at, column)
            found.append(scale * float(k @ q))
        return found[::-1]
