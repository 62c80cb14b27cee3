"""The size of memory and of arrays."""

import functools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax


@functools.cache
def available() -> int | None:
    """Return the bytes of memory of the device that JAX uses; None if it does not report them.

    On a CPU this is the machine's memory, or the limit of the process' control group. The system is asked only once.
    """
    device = jax.local_devices()[0]
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *cgroup_limits(Path("/sys/fs/cgroup"), Path("/proc/self/cgroup"))])


def cgroup_limits(mounted: Path, own: Path) -> Iterator[int]:
    """Yield the memory limits of a process' control group and of its parents, in versions 1 and 2.

    `mounted` is the folder where control groups are mounted, `own` the file that lists the process' groups, as lines of
    ``ID:CONTROLLERS:/PATH``.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        # In a container the path may be the host's; the mounted folder is then the container's own group.
        for folder in (group, *group.parents):
            if folder.is_relative_to(root) and (folder / name).is_file():
                limit = (folder / name).read_text().strip()
                if limit.isdigit():  # not "max"
                    yield int(limit)


def tree_bytes(shapes: Any) -> int:
    """Return the bytes of a tree of arrays, or of their shapes."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(shapes))
