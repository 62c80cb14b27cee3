import math

from tests import oracle


class Oracle(oracle.Oracle):
    def logit(self, q, k, i, j, scale, x, row, column):
        w, c = self.p["weight"][self.head], self.p["offset"][self.head]
        forgotten = sum(
            math.log(1 / (1 + math.exp(-(w @ x[t] + c)))) for t in range(column + 1, row + 1)
        )
        return scale * float(q @ k) + forgotten
