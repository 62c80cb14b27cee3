"""The arguments of the kernels in `relpos.attention.pallas_kernels`, their blocks, and the logits of a block.

Kernels get whole arrays, which are cut here. The head dimension is processed in chunks, to support heads of any size.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from relpos.attention import pallas_bands, reference
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout
from relpos.attention.terms import plus
from relpos.positions import distances


class Launch(NamedTuple):
    """The static side of the kernels of one head."""

    graphdef: Any  # of the encoding
    variables: Any  # the tree of its variables
    rules: Rules
    layout: Layout
    width: int  # W, of the band
    runs: tuple[str, ...]  # of keys for a block of queries: "past", "near", "future"
    hides_far: bool  # whether a run that is not near may contain hidden pairs
    interpreted: bool = False  # on a CPU, for tests


class Inputs(NamedTuple):
    """The differentiable arrays, padded to whole blocks and chunks."""

    state: Any  # of the encoding, a list of arrays
    q: Array  # [T, H]
    k: Array  # [S, H]
    v: Array  # [S, V]
    row_terms: Any  # [T, W], or [1, W] for all rows, laid out by `pallas_bands.lay_out`, or None
    column_terms: Any  # [S, W], likewise
    q_features: Any
    k_features: Any


class Constants(NamedTuple):
    """The arrays that are not differentiated."""

    q: Tokens
    k: Tokens
    seed: Array | None
    state: Any  # of the encoding
    visits: "Visits"


class Visits(NamedTuple):
    """The bounds of the runs of blocks with visible pairs: each run lasts from one bound to the next."""

    keys: Array  # [blocks of queries, runs + 1]
    queries: Array  # [blocks of keys, runs + 1]: the runs in reverse


class Backward(NamedTuple):
    """What the backward pass needs for each query, besides the inputs; all of them, or a block of C."""

    log_total: Array  # [T], log2 of the softmax's denominator
    correction: Array  # [T]
    d_out: Any  # [T, V]; in a block, chunks of V
    d_by_distance: Any  # [T, W], laid out by `pallas_bands.lay_out`, or None


class BlockOfQueries(NamedTuple):
    """A block of queries; lists are chunks of the head dimension."""

    band: pallas_bands.Block
    q: list[Array]
    tokens: Tokens
    features: Any
    terms: Any


class BlockOfKeys(NamedTuple):
    """A block of keys."""

    band: pallas_bands.Block
    k: list[Array]
    v: list[Array]
    tokens: Tokens
    features: Any
    terms: Any


def chunk(size: int) -> int:
    """Return the size of the chunks of a head dimension: a power of two that a GPU's matrix units take, at most 64."""
    return min(64, max(16, pl.next_power_of_2(size)))


def _chunks(ref, rows) -> list[Array]:
    size = chunk(ref.shape[1])
    return [ref[rows, pl.ds(h, size)] for h in range(0, ref.shape[1], size)]


def put(tree, rows, values) -> None:
    """Store values in these rows of a tree of arrays."""
    for ref, value in zip(jax.tree.leaves(tree), jax.tree.leaves(values), strict=True):
        ref[rows] = value.astype(ref.dtype)


def put_chunks(ref, rows, values: list[Array]) -> None:
    """Store chunks in these rows of one array."""
    for i, value in enumerate(values):
        size = value.shape[1]
        ref[rows, pl.ds(i * size, size)] = value.astype(ref.dtype)


def block_of_queries(
    launch: Launch, inputs: Inputs, constants: Constants, number
) -> BlockOfQueries:
    """Load a block of queries."""
    band = pallas_bands.Block(launch.layout, launch.width, 1, number)
    rows = band.tokens
    tokens, features = jax.tree.map(lambda ref: ref[rows], (constants.q, inputs.q_features))
    terms = pallas_bands.terms_of(band, inputs.row_terms)
    return BlockOfQueries(band, _chunks(inputs.q, rows), tokens, features, terms)


def block_of_keys(launch: Launch, inputs: Inputs, constants: Constants, number) -> BlockOfKeys:
    """Load a block of keys and values."""
    band = pallas_bands.Block(launch.layout, launch.width, 0, number)
    columns = band.tokens
    tokens, features = jax.tree.map(lambda ref: ref[columns], (constants.k, inputs.k_features))
    terms = pallas_bands.terms_of(band, inputs.column_terms)
    k, v = _chunks(inputs.k, columns), _chunks(inputs.v, columns)
    return BlockOfKeys(band, k, v, tokens, features, terms)


def block_of_slopes(backward: Backward, band: pallas_bands.Block) -> Backward:
    """Load what the backward pass needs for a block of queries."""
    rows = band.tokens
    d_by_distance = pallas_bands.terms_of(band, backward.d_by_distance)
    log_total_C, correction_C = backward.log_total[rows], backward.correction[rows]
    return Backward(log_total_C, correction_C, _chunks(backward.d_out, rows), d_by_distance)


def dot(launch: Launch, a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
    """Return the product of a and b, summed over these axes in float32 or wider."""
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    if launch.interpreted:  # no half-precision product with wider sums on CPUs
        a, b = a.astype(wide), b.astype(wide)
    contract = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, contract, preferred_element_type=wide)


def dot_chunks(launch: Launch, a: list[Array], b: list[Array]) -> Array:
    """Return a @ b.T, for matrices in chunks."""
    return sum(dot(launch, x, y, (1, 1)) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _distances(launch: Launch, q_tokens: Tokens, k_tokens: Tokens) -> Array:
    d_CK = distances(q_tokens.position, k_tokens.position)
    return jnp.maximum(d_CK, 0) if launch.rules.past_only else d_CK


def index_of(launch: Launch, run: str, queries: BlockOfQueries, keys: BlockOfKeys) -> Any:
    """Return the index of the pairs' values in the band, see `pallas_bands`; None without a band."""
    layout = launch.layout
    if layout.band is None:
        return None
    if not layout.consecutive:
        d_CK = _distances(launch, queries.tokens, keys.tokens)
        return jnp.clip(layout.band - d_CK, 0, launch.width - 1)
    return keys.band.first - queries.band.first if run == "near" else run


def evaluate(
    launch: Launch, integers, tokens: tuple[Tokens, Tokens], state, q_features, k_features
) -> Any:
    """Return the bias that the encoding evaluates for each pair; None without one."""
    variables = jax.tree.unflatten(launch.variables, [*state, *integers])
    encoding = nnx.merge(launch.graphdef, *variables)
    bias_CK = None
    if launch.layout.band is None:
        bias_CK = jax.vmap(encoding.bias)(_distances(launch, *tokens))
    q, k = Queries(None, None, q_features), Keys(None, None, k_features)
    return plus(bias_CK, reference.block_bias(encoding, q, k, *tokens))


def logits_of(
    launch: Launch, run: str, queries: BlockOfQueries, keys: BlockOfKeys, index, bias_CK
) -> tuple:
    """Return the logits and the mask of visible pairs; mask None: all are visible."""
    dots_CK = dot_chunks(launch, queries.q, keys.k)
    terms = [side.terms.read(index) for side in (queries, keys) if side.terms is not None]
    logits_CK = reference.finish_logits(launch.rules, dots_CK, *terms, bias_CK)
    mask_CK = None
    if run == "near" or launch.hides_far:
        mask_CK = reference.mask(launch.rules, queries.tokens, keys.tokens)
    return logits_CK.astype(dots_CK.dtype), mask_CK


def over_runs(runs: tuple[str, ...], bounds, number, visit: Callable, carry: Any) -> Any:
    """Visit the runs of blocks one after another: carry = visit(run, block, carry)."""
    for i, run in enumerate(runs):
        begin, end = bounds[number, i], bounds[number, i + 1]
        carry = lax.fori_loop(begin, end, functools.partial(visit, run), carry)
    return carry


def loaded(constants: Constants, state) -> tuple[Constants, Any]:
    """Load what every block reads."""
    load = lambda tree: jax.tree.map(lambda ref: ref[...], tree)  # noqa: E731
    seed = None if constants.seed is None else (constants.seed[0], constants.seed[1])
    return constants._replace(seed=seed, state=load(constants.state)), load(state)  # type: ignore[arg-type]
