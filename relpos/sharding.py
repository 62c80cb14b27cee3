"""Arrays cut among devices by an explicit mesh, the default of `jax.make_mesh`.

There every operation must say how its result is cut, which loops and gathers cannot always. Here the compiler is left
to decide it, as on an automatic mesh; only the result is what the type of the input promises.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array


def left_to_the_compiler(
    function: Callable, static: tuple, like: Array, *axes: int | None
) -> Callable:
    """Return function(*static, ...) for arrays of an explicit mesh; where there is none, the function itself.

    Args:
      function: of trees of arrays, defined in a module: with the same static arguments it is compiled once.
      static: its first arguments, hashable.
      like: an array that is among its other arguments.
      *axes: for each leading axis of all results the axis of `like` that it is cut as; None, and beyond: not cut.
    """
    sharding = jax.typeof(like).sharding
    if not sharding.mesh.explicit_axes:
        return functools.partial(function, *static)
    spec = PartitionSpec(*(None if axis is None else sharding.spec[axis] for axis in axes))
    return functools.partial(_compiled, function, static, NamedSharding(sharding.mesh, spec))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(function: Callable, static: tuple, sharding: NamedSharding, *args: Any) -> Any:
    return jax.sharding.auto_axes(
        functools.partial(function, *static),
        axes=sharding.mesh.explicit_axes,
        out_sharding=sharding,
    )(*args)
