import math

from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"positions": 5},)

    def logits(self, q, keys, i, js, scale, x, row, columns):
        e = self.p["vectors"]
        most = self.options.get("positions", 64) - 1
        gates = [1 / (1 + math.exp(-scale * float(q @ k))) for k in keys]
        logits = []
        for place, k in enumerate(keys):
            p = min(sum(gates[place:]), most)
            low, high = math.floor(p), math.ceil(p)
            z = (high - p) * float(q @ e[low]) + (1 - high + p) * float(q @ e[high])
            logits.append(scale * float(q @ k) + z)
        return logits
