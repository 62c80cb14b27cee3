"""States as small as they can be, for the tests of checkpoints."""

import jax
from flax import nnx


def make_state(seed, width=1000):
    key = jax.random.key(seed)
    model = nnx.State({"kernel": nnx.Param(jax.random.normal(key, (width, 300)))})
    optimizer = nnx.State({"opt_state": {0: {"mu": nnx.Param(jax.random.normal(key, (7,)))}}})
    return nnx.State({0: model, 1: optimizer})
