"""Every choice of path and size, in one place: by platform and shape."""

from typing import Any, Literal

import jax
from jax import Array

from relpos.attention.regions import Layout, round_up

Implementation = Literal["auto", "reference", "blockwise", "pallas"]
IMPLEMENTATIONS = ("auto", "reference", "blockwise", "pallas")

FEW_QUERIES = 8  # decoding: a step is bound by reading the keys
FEW_PAIRS = 128 * 128  # about one block: the dense path does not compute the logits twice
SHORT = 256 * 256  # measured: up to here, eight heads together are faster than one at a time
ALL = 2**31
TOGETHER = 128  # queries and keys in a block of all heads
ONE_BLOCK = 512 * 512  # float32 logits and weights of this many pairs fit a core's cache
HAVE_RUN = ("9.0",)  # compute capabilities on which "auto" uses the kernels: that of the H200
FEW_FACTORS = 256  # measured: with more factors per token, kernels are slower than blocks


class NoKernelError(ValueError):
    """The GPU kernels do not support a call: "auto" then takes another path."""


def are_known(*sizes: Any) -> bool:
    """Whether sizes are numbers: with `jax.export` they may be symbols, which cannot be compared."""
    return all(isinstance(size, int) for size in sizes)


def are_at_most(most: int, *sizes: Any) -> bool:
    """Whether all sizes are known to be at most `most`."""
    return are_known(*sizes) and max(sizes) <= most


def implementation(asked: str, T: int, S: int, *, has_vectors: bool) -> str:
    """Return the path asked for; for "auto", the path if no kernels are tried (`tries_kernels`).

    The dense path is cheaper for few queries or few pairs, unless the encoding has vectors, of which the dense path
    makes one for each pair.
    """
    if asked != "auto":
        return asked
    return "reference" if _are_few(T, S) and not has_vectors else "blockwise"


def _are_few(T: int, S: int) -> bool:
    return are_known(T, S) and (T < FEW_QUERIES or T * S <= FEW_PAIRS)


def tries_kernels(asked: str, q: Array, k: Array) -> bool:
    """Whether "auto" tries the GPU kernels first: on a tested kind of GPU, for sizes that the kernels were written for.

    The compiler cannot split a kernel among devices: with several devices they run only inside `jax.shard_map`.
    """
    if asked != "auto" or interpreted() or not are_known(*q.shape, *k.shape):
        return False
    if devices() > 1 or _capability() not in HAVE_RUN:
        return False
    return not _are_few(q.shape[1], k.shape[1]) and q.dtype.itemsize <= 4


def _capability() -> str:
    """Return the compute capability of the NVIDIA GPU here; "" for other devices."""
    return getattr(jax.local_devices()[0], "compute_capability", "")


def layout(
    T: int,
    S: int,
    *,
    consecutive: bool,
    beyond: int | None,
    has_vectors: bool,
    width: int = 0,
    window: int | None = None,
    block_sizes: tuple[int, int] | None = None,
    together: int = 1,
) -> Layout:
    """Return block sizes, and a band if the distances below `beyond` are few enough.

    Blocks of 512 keep logits and weights of one head in a core's cache, and are large enough to be split between two
    cores; for a single core, blocks of 256 skip more hidden pairs. Short sequences and windows are cut finer, so that
    there are hidden blocks to skip; few queries have all keys in one block. Blocks are smaller where the encoding is
    evaluated for each pair (vectors of all distances, or a network as bias), since they then hold `width` numbers for
    every pair, and where a block holds several heads.
    """
    if block_sizes is not None:
        rows, columns = block_sizes
    elif not are_known(T, S):
        rows = columns = 128
    elif T < FEW_QUERIES:
        rows, columns = T, min(S, max(16, ONE_BLOCK // FEW_QUERIES // max(1, width)))
    else:
        reach = max(T, S) if window is None else min(max(T, S), window)
        largest = 128 if reach <= 256 else 256 if _has_one_thread() else 512
        if width > 1:
            largest = max(16, min(largest, 512 // round(width**0.5)))
        if together > 1:
            largest = min(largest, TOGETHER)
        rows, columns = min(largest, round_up(T, 8)), min(largest, round_up(S, 8))
    band = None
    if beyond is not None and (not consecutive or 2 * beyond < columns):
        band = beyond
    if has_vectors and consecutive and band is None:
        rows = min(rows, columns)  # a ring holds no more than one block of keys
    return Layout(rows, columns, consecutive, band)


def _has_one_thread() -> bool:
    """Whether this is one of several CPU devices in `jax.shard_map`, which are meant to have one core each."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes) and jax.default_backend() == "cpu"


def walk_layout(
    T: int,
    S: int,
    most_rows: int,
    *,
    consecutive: bool,
    block_sizes: tuple[int, int] | None = None,
) -> Layout:
    """Return block sizes for encodings that walk along the row.

    Blocks of keys are small, since a walk may hold an array for each pair in a block.
    """
    if block_sizes is not None:
        rows, columns = block_sizes
    elif not are_known(T, S):
        rows, columns = most_rows, 64
    else:
        rows = T if T < FEW_QUERIES else min(most_rows, round_up(T, 8))
        columns = min(64, round_up(S, 8))
    return Layout(rows, columns, consecutive)


def kernel_layout(
    T: int,
    S: int,
    row_bytes: int,
    *,
    consecutive: bool,
    band: int | None,
    block_sizes: tuple[int, int] | None = None,
) -> Layout:
    """Return block sizes for GPU kernels, powers of two.

    A block of logits is held in registers, its queries and keys in a multiprocessor's shared memory. With row_bytes
    for each query and key, the kernels compiled for sm_90 use at most 160 KiB of it.
    """
    largest = 64 if row_bytes <= 256 else 32 if row_bytes <= 1280 else 16

    def size(n):  # 16: a GPU's matrix units take no less
        return min(largest, max(16, 2 ** (n - 1).bit_length()))

    rows, columns = block_sizes or (size(T), size(S))
    return Layout(rows, columns, consecutive, band)


def kernels():
    """Import and return the module of the GPU kernels.

    Raises:
      NoKernelError: this version of JAX has no Triton backend for Pallas.
    """
    try:
        from relpos.attention import pallas
    except ImportError as error:
        raise NoKernelError(
            f'implementation="pallas" needs Pallas\' Triton backend, which JAX {jax.__version__} does not have '
            f'({error}): use "auto" or "blockwise"'
        ) from error
    return pallas


def interpreted() -> bool:
    """Whether the GPU kernels are interpreted on this machine."""
    # A device, the name of a platform, or None.
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    platform = getattr(chosen, "platform", chosen) or jax.default_backend()
    return platform not in ("gpu", "cuda", "rocm")


def longest_in_a_table(T: int, S: int) -> int | None:
    """Return the longest distance that a table for scattered positions holds; None: no table.

    A table four times as long as the row covers rows out of order, packed documents and randomly drawn positions.
    """
    return 4 * max(T, S) if are_known(T, S) else None


def heads_at_once(T: int, S: int) -> int:
    """Return about how many heads (and batch rows) a CPU computes together; accelerators compute all of them.

    The block of one head stays in a core's cache; for heads with few pairs, computing several together costs less
    overhead.
    """
    if _are_few(T, S):
        return ALL
    return 8 if are_known(T, S) and T * S <= SHORT else 1


def devices() -> int:
    """Return the number of devices that the compiler may split an array among; 1 inside `jax.shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.manual_axes else jax.device_count()
