"""Puts the parameters of foreign models into ours."""

import jax
import jax.numpy as jnp
from flax import nnx


class Layers:
    """The parameters of all layers of one stack, as our stacks hold them.

    Args:
      p: arrays by their foreign names.
      stack: what these names begin with, before the number of the layer.
      count: the number of layers.
    """

    def __init__(self, p, stack, count):
        self.p, self.stack, self.count = p, stack, count

    def __call__(self, name, change=lambda x: x):
        """Return one array of all layers, each of them changed."""
        return jnp.stack([change(self.p[f"{self.stack}.{n}.{name}"]) for n in range(self.count)])

    def kernel(self, *names):
        """Return the kernels of all layers; those of several names are concatenated."""
        return jnp.concatenate([self(f"{name}.weight", lambda x: x.T) for name in names], -1)


def in_float64(parts):
    """Return the model of a graphdef and a state, in float64."""
    graphdef, state = parts
    return nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(float), state))
