"""Draw examples of algorithmic tasks as symbols, and compare how often values occur."""

import collections
import math

import numpy as np

from relpos.data import algorithmic

NAMES = algorithmic.names()


def rng(seed=0):
    return np.random.default_rng(seed)


def readable(task, ids):
    return [task.symbols[i] for i in ids]


def shown(task, example):
    return [
        None if hidden else task.symbols[i]
        for i, hidden in zip(example.tokens, example.hidden, strict=True)
    ]


def many(name, length, count, seed=0, **chosen):
    """Readable questions and answers."""
    task = algorithmic.create(name, **chosen)
    for tokens, hidden, scored in task.examples(rng(seed), [length] * count):
        yield readable(task, tokens[~hidden]), readable(task, tokens[scored])


def assert_uniform(drawn, values, sigmas=5):
    """Every value is as frequent as the others, and nothing else occurs."""
    counts = collections.Counter(drawn)
    values = list(values)
    assert set(counts) == set(values)
    total, share = sum(counts.values()), 1 / len(values)
    tolerance = sigmas * math.sqrt(total * share * (1 - share))
    assert max(abs(n - total * share) for n in counts.values()) <= tolerance, counts


def start(name="reverse", **changed):
    chosen = {"lengths": (2, 9), "batch_size": 6, "seed": 0} | changed
    return iter(algorithmic.train_batches(algorithmic.create(name), **chosen))
