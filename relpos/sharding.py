"""Functions of arrays that are sharded by an explicit mesh, the default of `jax.make_mesh`.

On such a mesh every operation must define the sharding of its result, which loops and gathers cannot always do. Here
the compiler decides it, as on an automatic mesh; only final results have a sharding that the input's type defines.
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
    """Return function(*static, ...), compiled for arrays on an explicit mesh if `like` is on one.

    Args:
      function: a function of trees of arrays, defined in a module; compiled once for the same static arguments.
      static: its first arguments, hashable.
      like: an array among its other arguments.
      *axes: for each leading axis of the results, the axis of `like` with the same sharding; None or omitted:
        unsharded.
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
