"""Every choice of path and size, in one place: by platform and shape."""

from typing import Any, Literal

import jax
from jax import Array

from relpos.attention.regions import Layout, round_up

Implementation = Literal["auto", "reference", "blockwise", "pallas"]
IMPLEMENTATIONS = ("auto", "reference", "blockwise", "pallas")

FEW_QUERIES = 8  # decoding: a step's work is reading the keys
FEW_PAIRS = 128 * 128  # about what fits a block: the dense path has no second pass over the logits
SHORT = 256 * 256  # up to here eight heads together were measured faster than one, beyond not
ALL = 2**31
TOGETHER = 128  # queries and keys in a block of all heads
ONE_BLOCK = 512 * 512  # float32 logits and weights of that many pairs stay in a core's cache
HAVE_RUN = ("9.0",)  # compute capabilities on which "auto" takes the kernels: that of the H200
FEW_FACTORS = (
    256  # with more of them beside queries and keys, kernels were measured slower than blocks
)


class NoKernelError(ValueError):
    """The GPU kernels cannot carry a call: "auto" then takes another path."""


def are_known(*sizes: Any) -> bool:
    """Whether sizes are numbers: with `jax.export` they may be symbols, whose order cannot be told."""
    return all(isinstance(size, int) for size in sizes)


def are_within(most: int, *sizes: Any) -> bool:
    """Whether all sizes are known to be at most this."""
    return are_known(*sizes) and max(sizes) <= most


def implementation(asked: str, T: int, S: int, *, has_vectors: bool) -> str:
    """Return the path that "auto" stands for where kernels are not tried first (`tries_kernels`).

    Few queries or few pairs are cheaper dense, unless the encoding has vectors, of which the dense path makes one for
    each pair.
    """
    if asked != "auto":
        return asked
    return "reference" if _are_few(T, S) and not has_vectors else "blockwise"


def _are_few(T: int, S: int) -> bool:
    return are_known(T, S) and (T < FEW_QUERIES or T * S <= FEW_PAIRS)


def tries_kernels(asked: str, q: Array, k: Array) -> bool:
    """Whether "auto" tries the GPU kernels first: on a GPU that has run them, with sizes they are written for.

    The compiler cannot cut a kernel among devices: with several there are none outside of `jax.shard_map`.
    """
    if asked != "auto" or interpreted() or not are_known(*q.shape, *k.shape):
        return False
    if devices() > 1 or _capability() not in HAVE_RUN:
        return False
    return not _are_few(q.shape[1], k.shape[1]) and q.dtype.itemsize <= 4


def _capability() -> str:
    """Return the compute capability of NVIDIA's GPU here; "" of other devices."""
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
    """Return block sizes and whether the distances short of `beyond` are few enough for a band.

    Blocks of 512 keep logits and weights of one head in a core's cache, and are large enough to be cut for two cores;
    where a core works alone, blocks of 256 skip more of what is hidden. Short sequences and windows are cut finer,
    so that there are hidden blocks to skip; few queries have all keys in one block. Where the encoding is evaluated for
    each pair, vectors for all distances or a bias that is a network, a block holds `width` numbers for every pair:
    smaller blocks. So they are where a block is of several heads together.
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
        rows = min(rows, columns)  # a ring hands on no more than a block of keys
    return Layout(rows, columns, consecutive, band)


def _has_one_thread() -> bool:
    """Whether this is a CPU device beside others, in `jax.shard_map`: they are made to have a core each."""
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

    A block of keys may hold an array for each pair of them.
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

    A block of logits is held in registers, its queries and keys in a multiprocessor's shared memory: with row_bytes
    for a query or key at most 160 KiB, as kernels compiled for sm_90 say.
    """
    largest = 64 if row_bytes <= 256 else 32 if row_bytes <= 1280 else 16

    def size(n):
        return min(
            largest, max(16, 2 ** (n - 1).bit_length())
        )  # 16: a GPU's matrix units take no less

    rows, columns = block_sizes or (size(T), size(S))
    return Layout(rows, columns, consecutive, band)


def kernels():
    """Return the module of the GPU kernels, imported only when they are asked for.

    Raises:
      NoKernelError: this JAX has no Pallas with a Triton backend.
    """
    try:
        from relpos.attention import pallas
    except ImportError as error:
        raise NoKernelError(
            f'implementation="pallas" needs Pallas\' Triton backend, which JAX {jax.__version__} here does not have '
            f'({error}): use "auto" or "blockwise"'
        ) from error
    return pallas


def interpreted() -> bool:
    """Whether kernels, which are written for GPUs, are interpreted on this machine."""
    # A device, the name of a platform, or None.
    chosen = jax.config.jax_default_device  # type: ignore[attr-defined]
    platform = getattr(chosen, "platform", chosen) or jax.default_backend()
    return platform not in ("gpu", "cuda", "rocm")


def longest_in_a_table(T: int, S: int) -> int | None:
    """Return how long distances of scattered positions may be for a table of them; None: there is none.

    A table four times as long as the row covers rows out of order, documents side by side, draws of positions.
    """
    return 4 * max(T, S) if are_known(T, S) else None


def heads_at_once(T: int, S: int) -> int:
    """Return about how many heads (and batch rows) a CPU computes together; accelerators take all of them.

    One head's block stays in a core's cache; where a head has few pairs, some together have less to start and to
    wait for.
    """
    if not are_known(T, S):
        return 1
    if T < FEW_QUERIES or T * S <= FEW_PAIRS:
        return ALL
    return 8 if T * S <= SHORT else 1


def devices() -> int:
    """Return among how many devices the compiler may cut an array here: one inside of `jax.shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.manual_axes else jax.device_count()
