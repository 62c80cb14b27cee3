"""The mesh axes that an array varies over inside `jax.shard_map`, for older and newer versions of JAX.

Loops and kernels must declare them there: as `aval.manual_axis_type` from JAX 0.10 on, as a set `aval.vma` before.
"""

import jax
from jax import lax

# Before JAX 0.8.2 there is only pvary, which is deprecated in newer versions.
_cast = getattr(lax, "pcast", None)


def varying(x) -> frozenset:
    """Return the axes that an array varies over; none outside shard_map."""
    aval = jax.typeof(x)
    axes = getattr(aval, "manual_axis_type", None)
    return aval.vma if axes is None else axes.varying


def varying_like(like, tree):
    """Mark `tree` as varying over the mesh axes that `like` varies over, as loops inside shard_map require."""
    axes = frozenset().union(*map(varying, jax.tree.leaves(like)))

    def vary(x):
        missing = tuple(axes - varying(x))
        if not missing:
            return x
        if _cast is None:
            return lax.pvary(x, missing)  # type: ignore[attr-defined]
        return _cast(x, missing, to="varying")

    return jax.tree.map(vary, tree)


def shaped_like(like, tree):
    """Return the shapes and types of `tree`, varying over the mesh axes that the array `like` varies over."""
    aval = jax.typeof(like)
    name = "manual_axis_type" if hasattr(aval, "manual_axis_type") else "vma"
    axes = {name: getattr(aval, name)}
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, **axes), tree)
