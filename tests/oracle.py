"""Attention as two loops over tokens in float64, written from the equation; nothing of relpos is used here.

A scheme's test file (tests/encodings/NAME_test.py) defines `class Oracle(oracle.Oracle)`, written from the paper.
"""

import numpy as np


class Oracle:
    """One head of a scheme; the defaults are attention without positions.

    Attributes:
      p: the encoding's parameters, by attribute name, as float64, with the heads' axis where they have one.
      head: which head.
      options: what was chosen for the scheme; the defaults are the paper's and stand in the oracle.
    """

    # Choices of options that are checked beside the defaults.
    VARIANTS: tuple[dict, ...] = ()

    def __init__(self, p: dict[str, np.ndarray], head: int, heads: int, options: dict):
        self.p, self.head, self.heads, self.options = p, head, heads, options

    def of_key_head(self, name):
        """A parameter of key heads: that of this head's group."""
        return self.p[name][self.head // (self.heads // len(self.p[name]))]

    def embed(self, x, positions):
        """The model's input with absolute positions."""
        return x

    def logit(self, q, k, i, j, scale, x, row, column):
        """One logit of the query at position i and the key at j; x, row, column: the layer's input and places."""
        return scale * float(q @ k)

    def logits(self, q, keys, i, js, scale, x, row, columns):
        """The logits of one query and all keys that it sees, in the order of the row."""
        each = zip(keys, js, columns, strict=True)
        return [self.logit(q, k, i, j, scale, x, row, column) for k, j, column in each]

    # Of a scheme whose heads see each other: one logit, from the queries and keys of all heads, [N, H].
    of_all_heads = None

    def value(self, v, i, j):
        return v

    def sink(self):
        """The logit of a key without a value, or None."""
        return None

    def weights(self, logits):
        """What a query gives each key that it sees: the softmax, but for the sink's share."""
        sink = self.sink()
        weights = np.exp(np.array([*logits, -np.inf if sink is None else sink]) - max(logits))
        return (weights / weights.sum())[:-1]


def attention(oracles, q, k, v, *, q_positions, k_positions, visible, scale, x=None):
    """q [T, N, H], k and v [S, K, H]; visible(row, column) -> bool; returns [T, N, H]."""
    T, N, _ = q.shape
    S, K, H = v.shape
    out = np.zeros((T, N, H))
    seen_T = [[s for s in range(S) if visible(t, s)] for t in range(T)]
    for n in range(N):
        m = n // (N // K)
        for t, seen in enumerate(seen_T):
            i = q_positions[t].item()
            if not seen:
                continue
            js = [k_positions[s].item() for s in seen]
            if oracles[n].of_all_heads:
                each = zip(np.repeat(k[seen], N // K, 1), js, seen, strict=True)
                logits = [
                    oracles[n].of_all_heads(q[t], ks, i, j, scale, x, t, s) for ks, j, s in each
                ]
            else:
                logits = oracles[n].logits(q[t, n], k[seen, m], i, js, scale, x, t, seen)
            for weight, s in zip(oracles[n].weights(logits), seen, strict=True):
                out[t, n] += weight * oracles[n].value(v[s, m], i, k_positions[s].item())
    return out
