"""Arrays cut among devices by an explicit mesh, the default of `jax.make_mesh`.

There every operation must say how its result is cut, which loops and gathers cannot always. Here the compiler is left
to decide it, as on an automatic mesh; only the result is what the type of the input promises.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array


def left_to_the_compiler(function: Callable, like: Array, *axes: int | None) -> Callable:
    """Return the function for arrays of an explicit mesh; where there is none, the function itself.

    Args:
      function: of trees of arrays; it must not close over any array.
      like: an array that is among its arguments.
      *axes: for each leading axis of all results the axis of `like` that it is cut as; None, and beyond: not cut.
    """
    sharding = jax.typeof(like).sharding
    if not sharding.mesh.explicit_axes:
        return function
    spec = PartitionSpec(*(None if axis is None else sharding.spec[axis] for axis in axes))

    def inside(*args: Any) -> Any:
        out_sharding = NamedSharding(sharding.mesh, spec)
        return jax.sharding.auto_axes(
            function, axes=sharding.mesh.explicit_axes, out_sharding=out_sharding
        )(*args)

    return jax.jit(inside)
