"""What one head's attention in blocks can say and `attention` does not: the softmax's denominators as an output."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.attention import Slots, blockwise, reference
from relpos.attention.distances import Tables, tabulate
from relpos.attention.reference import Keys, Queries, Rules, Tokens
from relpos.attention.regions import Layout
from relpos.positions import distances
from tests.attending import assert_trees_close

T, S, H, V = 37, 31, 6, 7
ROWS, COLUMNS = 8, 16
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
        return jnp.cos(pairs * self.waves[...][1, :1])


def dense(encoding, rules, q, k, v, q_tokens, k_tokens):
    """The output and the logarithm of the softmax's denominator, of the equation."""
    d = distances(q_tokens.position, k_tokens.position)
    logits = q @ k.T
    logits += jnp.einsum("th,tsh->ts", q, encoding.key_vectors(d.ravel()).reshape(*d.shape, H))
    logits += jnp.einsum("sh,tsh->ts", k, encoding.query_vectors(d.ravel()).reshape(*d.shape, H))
    logits = rules.scale * logits + encoding.bias(d.ravel()).reshape(d.shape)
    logits += encoding.block_bias(q_tokens.position, k_tokens.position, None, None)
    mask = reference.mask(rules, q_tokens, k_tokens)
    weights = jax.nn.softmax(logits, where=mask)
    weights = jnp.where(mask.any(-1, keepdims=True), weights, 0)
    values = encoding.value_vectors(d.ravel()).reshape(*d.shape, V)
    log_total = jax.nn.logsumexp(logits, -1, where=mask)
    log_total = jnp.where(mask.any(-1), log_total, -1e300)
    return weights @ v + jnp.einsum("ts,tsv->tv", weights, values), log_total


def in_blocks(encoding, rules, q, k, v, q_tokens, k_tokens, *, consecutive):
    """The same in blocks: once for the values, once for the gradients."""
    beyond = encoding.constant_beyond
    band = beyond if beyond is not None and (not consecutive or 2 * beyond < COLUMNS) else None
    layout = Layout(ROWS, COLUMNS, consecutive, band)
    tables = tabulate(encoding, beyond, rules, layout, *map(len, (q, k)))
    head = functools.partial(
        blockwise.head, encoding, beyond, rules, layout, tables or Tables(),
        Queries(q, None, None), Keys(k, v, None), q_tokens, k_tokens, None,
    )  # fmt: skip
    result = head(jax.lax.stop_gradient(head()))
    size = len(q)
    return blockwise.joined(result, size), blockwise.joined_log_total(result, size)


def tokens(size, *, consecutive, packed):
    row = jnp.arange(size)
    position = row if consecutive else (row * 7) % size
    return Tokens(row, position, SEGMENTS[:size] if packed else None)


def sunk(attend, state, sink, q, k, v):
    """A loss through the output with an attention sink."""
    out, log_total = attend(state, q, k, v)
    weight = jnp.asarray(np.random.default_rng(9).normal(size=out.shape))
    return (out * jax.nn.sigmoid(log_total - sink)[:, None] * weight).sum()


def check(encoding, ways, rules, *, consecutive, packed):
    """Compare the loss and all its gradients of two ways to attend."""
    random = np.random.default_rng(1)
    arrays = [jnp.asarray(random.normal(size=shape)) for shape in ((T, H), (S, H), (S, V))]
    graphdef, state = nnx.split(encoding)
    places = [tokens(size, consecutive=consecutive, packed=packed) for size in (T, S)]

    def of(way):
        def attend(state, *arrays):
            return way(nnx.merge(graphdef, state), rules, *arrays, *places)

        loss = functools.partial(sunk, attend)
        found = jax.jit(jax.value_and_grad(loss, (0, 1, 2, 3, 4)))(state, 0.3, *arrays)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(found))
        return found

    found, expected = map(of, ways)
    assert_trees_close(found, expected, 1e-10)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("consecutive", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("beyond", [None, 5])
def test_an_attention_sink_made_of_log_total(beyond, causal, consecutive, packed):
    encoding = Waves(("bias", "key", "query", "value", "pairs"), beyond)
    ways = dense, functools.partial(in_blocks, consecutive=consecutive)
    check(encoding, ways[::-1], Rules(0.4, causal), consecutive=consecutive, packed=packed)
