"""Schemes of one kind: those that attention, layers and caches cannot tell apart but by their numbers.

What every scheme must hold is quick for one scheme of each kind, and long for the others; each scheme's own numbers
are quick for all of them, against the loop of its paper.
"""

import functools

import jax
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention.slots import SLOTS

NAMES = encodings.names()


@functools.cache
def kind(name):
    """Return what tells the scheme apart: its slots and facts; itself, if it walks or mixes.

    Tests of their own ask every scheme whether it takes reals, is causal only, and is trained.
    """
    scheme = encodings.scheme(name)
    if scheme.walks or scheme.mixes:
        return name
    slots = scheme.overridden & (SLOTS | {"embed"})
    one = small(name)
    ends = one.max_length is None, one.constant_beyond is None
    scales = one.logit_scale is None, one.scaled_vectors
    return tuple(sorted(slots)), scheme.axes, scheme.shift_invariant, scheme.unbound, *ends, *scales


@functools.cache
def small(name):
    """Return a scheme of two heads, without numbers."""
    create = functools.partial(encodings.create, num_heads=2, head_dim=4, features=8)
    return nnx.eval_shape(lambda: create(name, rngs=nnx.Rngs(0)))


def is_trained(name):
    """Return whether the scheme has parameters."""
    return bool(jax.tree.leaves(nnx.state(small(name), nnx.Param)))


def in_a_cache(name):
    """Return what tells the scheme apart for a cache: what is kept of a token, and how new tokens meet it."""
    scheme, one = encodings.scheme(name), small(name)
    kept = scheme.overridden & {"key", "value", "embed", "sink", "come_along"}
    tables = one.constant_beyond is None and bool(
        scheme.overridden & {"key_vectors", "query_vectors"}
    )
    return tuple(sorted(kept)), tables, scheme.needs_tokens, scheme.walks, scheme.mixes, scheme.axes


def last_of_each(told_apart):
    """Return the last of each kind, as an alphabet has them, which stands for it."""
    kinds = [told_apart(name) for name in NAMES]
    return tuple(name for i, name in enumerate(NAMES) if kinds[i] not in kinds[i + 1 :])


OF_EACH_KIND, OF_EACH_CACHE = last_of_each(kind), last_of_each(in_a_cache)
READ_TOKENS = tuple(name for name in NAMES if encodings.scheme(name).needs_tokens)


def quick_for(some, names=NAMES):
    """Return the names as parameters: quick for some of them, long for the others."""
    return [pytest.param(n, marks=() if n in some else pytest.mark.long) for n in names]
