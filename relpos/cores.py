"""Cores as devices: the rows of a batch are divided among CPU devices, one for each core.

XLA divides each operation among the threads of a CPU device, and each time waits for the slowest. Here devices compute
their rows independently, and wait for one another once, at the end. Programs do not communicate, since XLA's
collectives on CPUs were observed to deadlock.

The number of devices is set before JAX starts, by ``jax_num_cpu_devices``: the commands set it (`relpos.process`).
Otherwise there is one device, which takes all rows. Other platforms always use one device.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from relpos import device_memory

_ROWS = "rows"
_MOST_OF_MEMORY = 4  # all copies of a model take at most 1 / 4 of memory
Batch = Mapping[str, Any]


def sharing(rows: int, model: Any) -> list[jax.Device]:
    """Return devices that divide the rows of a batch evenly, as many as memory has room for copies of the model."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices[:1]
    copies = (device_memory.available() or 0) // (
        _MOST_OF_MEMORY * max(1, device_memory.tree_bytes(model))
    )
    most = max(1, min(len(devices), copies))
    return devices[: max(n for n in range(1, most + 1) if rows % n == 0)]


def by_rows(function: Callable, static: tuple, state: Any, batch: Batch) -> Any:
    """Return function(*static, state, batch), computed by several devices with some rows of the batch each.

    Args:
      function: a pure function, the same object in each call. Its results for some rows must not depend on others.
      static: its first arguments, hashable.
      state: a tree of arrays. If it is on several devices, these compute together, according to its sharding.
      batch: arrays whose first axis is rows, not on a device yet.

    Returns:
      The results, concatenated along their first axis; a scalar becomes an array with one entry for each device.
    """
    devices = sharing(len(next(iter(batch.values()))), state)
    lies_on_many = any(
        isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer) and len(x.devices()) > 1
        for x in jax.tree.leaves(state)
    )
    if len(devices) == 1 or lies_on_many:
        return _alone(function, static, state, jax.device_put(batch))
    mesh = jax.make_mesh((len(devices),), (_ROWS,), (AxisType.Auto,), devices=devices)
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    batch = jax.device_put(batch, NamedSharding(mesh, PartitionSpec(_ROWS)))
    return _together(function, static, mesh, state, batch)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _alone(function: Callable, static: tuple, state: Any, batch: Batch) -> Any:
    return jax.tree.map(jnp.atleast_1d, function(*static, state, batch))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _together(function: Callable, static: tuple, mesh: Mesh, state: Any, batch: Batch) -> Any:
    def one(state, batch):
        return jax.tree.map(jnp.atleast_1d, function(*static, state, batch))

    specs = (PartitionSpec(), PartitionSpec(_ROWS))
    return jax.shard_map(one, mesh=mesh, in_specs=specs, out_specs=specs[1], check_vma=False)(
        state, batch
    )


def total(sums: jax.Array) -> float:
    """Return the sum over devices of a scalar, in float64."""
    return float(np.asarray(sums, np.float64).sum())


def own_key(key: jax.Array) -> jax.Array:
    """Return a random key that differs between devices, inside a `by_rows` function."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return key
    return jax.random.fold_in(key, jax.lax.axis_index(_ROWS))


def parts(result: Any) -> list[Any]:
    """Return each device's part of a result of `by_rows`, all on the first device."""
    leaves, structure = jax.tree.flatten(result)
    if isinstance(leaves[0], jax.core.Tracer):  # inside the caller's program, on one device
        return [result]
    shares = zip(
        *([shard.data for shard in leaf.addressable_shards] for leaf in leaves), strict=True
    )
    first = min(leaves[0].devices(), key=lambda device: device.id)
    return [jax.tree.unflatten(structure, jax.device_put(share, first)) for share in shares]
