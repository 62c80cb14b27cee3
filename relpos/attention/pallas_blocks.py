"""What a kernel of `relpos.attention.pallas_kernels` is given, the blocks it takes of that, and the logits of a pair.

Arrays come whole and are cut here. The head dimension is worked on in chunks, for heads of any size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array

from relpos.attention import reference
from relpos.attention.pallas_bands import Sums, Terms
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout
from relpos.positions import distances


class Problem(NamedTuple):
    """The static side of one head's attention."""

    graphdef: Any  # of the encoding
    variables: Any  # the tree of its variables
    rules: Rules
    layout: Layout
    width: int  # W, of the band
    interpreted: bool = False  # on a CPU, for tests


class Inputs(NamedTuple):
    """The differentiable side, padded to whole blocks and chunks."""

    state: Any  # of the encoding, a list of arrays
    q: Array  # [T, H]
    k: Array  # [S, H]
    v: Array  # [S, V]
    row_terms: Any  # [T, W], or [1, W] for all rows, or None
    column_terms: Any  # [S, W] or None
    q_features: Any
    k_features: Any


class Places(NamedTuple):
    """The integers."""

    q: Tokens
    k: Tokens
    seed: Array | None
    state: Any  # of the encoding
    visits: "Visits"


class Visits(NamedTuple):
    """The runs of blocks that hold visible pairs."""

    first_key: Array  # for each block of queries
    end_key: Array
    first_query: Array  # for each block of keys
    end_query: Array


class Backward(NamedTuple):
    """What the backward pass knows of each query, beside the inputs."""

    log_total: Array  # [T]
    correction: Array  # [T]
    d_out: Array  # [T, V]
    d_by_distance: Any  # [T, W] or None


class BlockOfQueries(NamedTuple):
    """A block of queries; lists are chunks of the head dimension."""

    q: list[Array]
    tokens: Tokens
    features: Any
    terms: Any


class BlockOfKeys(NamedTuple):
    """A block of keys."""

    k: list[Array]
    v: list[Array]
    tokens: Tokens
    features: Any
    terms: Any


class BlockOfSlopes(NamedTuple):
    """A block of `Backward`."""

    log_total: Array  # [C]
    correction: Array  # [C]
    d_out: list[Array]
    d_by_distance: Any


def chunk(size: int) -> int:
    """Return in which pieces a head dimension is worked on: what a GPU's matrix units take, or 64."""
    return min(64, max(16, pl.next_power_of_2(size)))


def _chunks(ref, rows) -> list[Array]:
    size = chunk(ref.shape[1])
    return [ref[rows, pl.ds(h, size)] for h in range(0, ref.shape[1], size)]


def _take(tree, rows):
    return jax.tree.map(lambda ref: ref[rows], tree)


def put(tree, rows, values) -> None:
    """Store values of these rows in arrays alike."""
    for ref, value in zip(jax.tree.leaves(tree), jax.tree.leaves(values), strict=True):
        ref[rows] = value.astype(ref.dtype)


def put_chunks(ref, rows, values: list[Array]) -> None:
    """Store the chunks of these rows in one array."""
    for i, value in enumerate(values):
        size = value.shape[1]
        ref[rows, pl.ds(i * size, size)] = value.astype(ref.dtype)


def block_of_queries(problem: Problem, inputs: Inputs, places: Places, number) -> BlockOfQueries:
    """Load a block of queries."""
    C = problem.layout.rows
    rows = pl.ds(number * C, C)
    tokens, features = _take((places.q, inputs.q_features), rows)
    terms = Terms.of(inputs.row_terms, number, C, axis=1)
    return BlockOfQueries(_chunks(inputs.q, rows), tokens, features, terms)


def block_of_keys(problem: Problem, inputs: Inputs, places: Places, number) -> BlockOfKeys:
    """Load a block of keys and values."""
    K = problem.layout.columns
    columns = pl.ds(number * K, K)
    tokens, features = _take((places.k, inputs.k_features), columns)
    terms = Terms.of(inputs.column_terms, number, K, axis=0)
    k, v = _chunks(inputs.k, columns), _chunks(inputs.v, columns)
    return BlockOfKeys(k, v, tokens, features, terms)


def block_of_slopes(problem: Problem, backward: Backward, number) -> BlockOfSlopes:
    """Load what the backward pass knows of a block of queries."""
    C = problem.layout.rows
    rows = pl.ds(number * C, C)
    d_by_distance = Terms.of(backward.d_by_distance, number, C, axis=1)
    return BlockOfSlopes(
        backward.log_total[rows],
        backward.correction[rows],
        _chunks(backward.d_out, rows),
        d_by_distance,
    )


def dot(problem: Problem, a: Array, b: Array, over: tuple[int, int] = (1, 0)) -> Array:
    """Sum over these axes, in float32 or wider."""
    wide = jnp.promote_types(jnp.result_type(a, b), jnp.float32)
    if problem.interpreted:  # a CPU has no product of half-precision numbers with wider sums
        a, b = a.astype(wide), b.astype(wide)
    contract = (((over[0],), (over[1],)), ((), ()))
    return lax.dot_general(a, b, contract, preferred_element_type=wide)


def dot_chunks(problem: Problem, a: list[Array], b: list[Array]) -> Array:
    """Return a @ b.T."""
    return sum(dot(problem, x, y, (1, 1)) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _distances(problem: Problem, queries: BlockOfQueries, keys: BlockOfKeys) -> Array:
    d_CK = distances(queries.tokens.position, keys.tokens.position)
    return jnp.maximum(d_CK, 0) if problem.rules.past_only else d_CK


def index_of(problem: Problem, queries: BlockOfQueries, keys: BlockOfKeys) -> Any:
    """Return the column of each pair's distance in the band; None without one."""
    band = problem.layout.band
    if band is None:
        return None
    return jnp.clip(band - _distances(problem, queries, keys), 0, problem.width - 1)


def sums_of(problem: Problem, ref, number, size: int, axis: int) -> Sums:
    """Return how a block sums by distance, into this array."""
    return Sums(ref, number, size, axis, problem.width, problem.layout.consecutive)


def evaluate(problem: Problem, places: Places, queries, keys, state, q_features, k_features) -> Any:
    """What the encoding computes for each pair; None: nothing."""
    variables = jax.tree.unflatten(problem.variables, [*state, *places.state])
    encoding = nnx.merge(problem.graphdef, *variables)
    bias_CK = None
    if problem.layout.band is None:
        bias_CK = jax.vmap(encoding.bias)(_distances(problem, queries, keys))
    q, k = Queries(None, None, q_features), Keys(None, None, k_features)
    block_CK = reference.block_bias(encoding, q, k, queries.tokens, keys.tokens)
    if bias_CK is None or block_CK is None:
        return block_CK if bias_CK is None else bias_CK
    return bias_CK + block_CK


def logits_of(
    problem: Problem, queries: BlockOfQueries, keys: BlockOfKeys, index, bias_CK
) -> tuple:
    """Return the logits and who is seen."""
    dots_CK = dot_chunks(problem, queries.q, keys.k)
    terms = [side.terms.read(index) for side in (queries, keys) if side.terms is not None]
    logits_CK = reference.finish_logits(problem.rules, dots_CK, *terms, bias_CK)
    mask_CK = reference.mask(problem.rules, queries.tokens, keys.tokens)
    return logits_CK.astype(dots_CK.dtype), mask_CK


def loaded(places: Places, state) -> tuple[Places, Any]:
    """Load what every block reads."""
    load = lambda tree: jax.tree.map(lambda ref: ref[...], tree)  # noqa: E731
    seed = None if places.seed is None else (places.seed[0], places.seed[1])
    return places._replace(seed=seed, state=load(places.state)), load(state)  # type: ignore[arg-type]
