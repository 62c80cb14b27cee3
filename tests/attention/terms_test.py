"""What one head's attention in blocks can say: the softmax's denominators as an output, sums of encodings."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.attention import Slots, blockwise, reference
from relpos.attention.distances import tabulate
from relpos.attention.parts import Part
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout
from relpos.positions import distances
from tests.attending import assert_trees_close

T, S, H, V = 37, 31, 6, 7
ROWS, COLUMNS = 8, 8
SEGMENTS = jnp.asarray([1] * 9 + [0] * 12 + [2] * 10 + [3] * 6)  # a whole block of padding


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Waves(Slots):
    """Slots of distances that tell every distance from every other one, up to a band."""

    def __init__(self, slots, beyond, seed=0):
        self.slots, self.constant_beyond = slots, beyond
        random = np.random.default_rng(seed)
        self.waves = nnx.Param(jnp.asarray(random.normal(size=(4, V + 1))))

    def _wave(self, slot, d, size):
        if slot not in self.slots:
            return None
        if self.constant_beyond is not None:
            d = jnp.clip(d, -self.constant_beyond, self.constant_beyond)
        wave = self.waves[...][("bias", "key", "query", "value").index(slot)]
        return jnp.sin(d[:, None] * wave[None, 0] + wave[None, 1 : size + 1])

    def bias(self, d):
        wave = self._wave("bias", d, 1)
        return None if wave is None else wave[:, 0]

    def key_vectors(self, d):
        return self._wave("key", d, H)

    def query_vectors(self, d):
        return self._wave("query", d, H)

    def value_vectors(self, d):
        return self._wave("value", d, V)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        if "pairs" not in self.slots:
            return None
        pairs = q_positions[:, None] * self.waves[...][0, :1] + k_positions[None]
        return jnp.cos(pairs * self.waves[...][1, :1]) * q_features[:, None] * k_features[None]


def dense(parts, rules, queries, keys, q_tokens, k_tokens):
    """The output and the logarithm of the softmax's denominator, of the equation."""
    q, k, v = queries.content, keys.key, keys.value
    d = distances(q_tokens.position, k_tokens.position).ravel()
    dots, biases, a_V = q @ k.T, 0, jnp.zeros((T, S, V))
    vectors = (q if vector is None else vector for vector in queries.vector)
    of_keys = (k if vector is None else vector for vector in keys.vector)
    features = zip(queries.features, keys.features, strict=True)
    for part, vector, of_key, of_pair in zip(parts, vectors, of_keys, features, strict=True):
        if (a_K := part.key_vectors(d)) is not None:
            dots += jnp.einsum("th,tsh->ts", vector, a_K.reshape(T, S, H))
        if (a_Q := part.query_vectors(d)) is not None:
            dots += jnp.einsum("sh,tsh->ts", of_key, a_Q.reshape(T, S, H))
        if (b := part.bias(d)) is not None:
            biases += b.reshape(T, S)
        b = part.block_bias(q_tokens.position, k_tokens.position, *of_pair)
        if b is not None:
            biases += b
        if (more := part.value_vectors(d)) is not None:
            a_V += more.reshape(T, S, V)
    logits = rules.scale * dots + biases
    mask = reference.mask(rules, q_tokens, k_tokens)
    weights = jax.nn.softmax(logits, where=mask)
    weights = jnp.where(mask.any(-1, keepdims=True), weights, 0)
    log_total = jax.nn.logsumexp(logits, -1, where=mask)
    log_total = jnp.where(mask.any(-1), log_total, -1e300)
    return weights @ v + jnp.einsum("ts,tsv->tv", weights, a_V), log_total


def in_blocks(parts, rules, queries, keys, q_tokens, k_tokens, *, consecutive):
    """The same in blocks: once for the values, once for the gradients."""
    layout = Layout(ROWS, COLUMNS, consecutive)

    def part_of(encoding):
        beyond = encoding.constant_beyond
        is_narrow = beyond is not None and (not consecutive or 2 * beyond < COLUMNS)
        part = Part(encoding, beyond, beyond if is_narrow else None)
        cut = part.layout(layout)
        part = part._replace(tables=tabulate(encoding, beyond, rules, cut, T, S))
        has_all = cut.has_table and "pairs" not in encoding.slots
        return part._replace(encoding=Slots()) if has_all else part

    head = functools.partial(
        blockwise.head, [part_of(encoding) for encoding in parts], rules, layout,
        queries, keys, q_tokens, k_tokens, None,
    )  # fmt: skip
    result = head(jax.lax.stop_gradient(head()))
    return blockwise.joined(result, T), blockwise.joined_log_total(result, T)


def tokens(size, *, consecutive, packed):
    row = jnp.arange(size)
    position = row if consecutive else (row * 7) % size
    return Tokens(row, position, SEGMENTS[:size] if packed else None)


def arrays(parts):
    """Queries and keys; the first part's vectors meet some of its own."""
    random = np.random.default_rng(1)
    new = lambda *shape: jnp.asarray(random.normal(size=shape))  # noqa: E731
    first = lambda size: tuple(new(size, H) if i == 0 else None for i in range(len(parts)))  # noqa: E731
    of_q, of_k = (
        tuple(new(size) if "pairs" in part.slots else None for part in parts) for size in (T, S)
    )
    return Queries(new(T, H), first(T), of_q), Keys(new(S, H), new(S, V), of_k, first(S))


def check(parts, rules, *, consecutive, packed):
    """Compare the two ways to attend, in a loss and all its gradients; the output goes through an attention sink."""
    graphdef, state = nnx.split(nnx.List(parts))
    places = [tokens(size, consecutive=consecutive, packed=packed) for size in (T, S)]
    weight = jnp.asarray(np.random.default_rng(9).normal(size=(T, V)))

    def of(way):
        def loss(state, sink, *arrays):
            out, log_total = way(nnx.merge(graphdef, state), rules, *arrays, *places)
            return (out * jax.nn.sigmoid(log_total - sink)[:, None] * weight).sum()

        found = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3)))(state, 0.3, *arrays(parts))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
        return found

    found, expected = of(functools.partial(in_blocks, consecutive=consecutive)), of(dense)
    assert_trees_close(found, expected, 1e-10)


def cases(quick, *choices):
    """All choices; any two of them meet in one that is quick."""
    marks = lambda case: () if case in quick else pytest.mark.long  # noqa: E731
    return [pytest.param(*case, marks=marks(case)) for case in itertools.product(*choices)]


CAUSAL, BOTH = ("causal", "bidirectional")
ROW, SCATTERED = ("consecutive", "scattered")
ALL = ("bias", "key", "query", "value", "pairs")


@pytest.mark.parametrize(
    ("beyond", "direction", "positions"),
    cases(
        [(None, CAUSAL, ROW), (5, BOTH, ROW), (None, BOTH, SCATTERED), (5, CAUSAL, SCATTERED)],
        (None, 5), (CAUSAL, BOTH), (ROW, SCATTERED),
    ),
)  # fmt: skip
def test_an_attention_sink_made_of_log_total(beyond, direction, positions):
    causal, consecutive = direction == CAUSAL, positions == ROW
    check([Waves(ALL, beyond)], Rules(0.4, causal), consecutive=consecutive, packed=causal)


@pytest.mark.parametrize(
    ("direction", "positions"),
    cases([(CAUSAL, ROW), (BOTH, ROW), (BOTH, SCATTERED)], (CAUSAL, BOTH), (ROW, SCATTERED)),
)
def test_a_sum_of_two_bands_and_an_endless_part(direction, positions):
    causal, consecutive = direction == CAUSAL, positions == ROW
    parts = [
        Waves(("key", "query", "value"), 3, seed=1),
        Waves(("bias", "key", "value", "pairs"), 11, seed=2),
        Waves(("bias", "query", "pairs"), None, seed=3),
    ]
    check(parts, Rules(0.4, causal), consecutive=consecutive, packed=not causal)
