"""The contract of every encoding in a model: one encoding, every situation. Schemes are discovered.

Compiling is what costs time here: all laws of a scheme run one after another, on the same models, and share few
programs, because what they call has the same shapes. A model has one layer: what several share, and how they are
scanned, is the stack's own doing and no scheme's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention import PerHeadConstant
from relpos.nn import Decoder, DecoderConfig
from relpos.positions import Window

NAMES = encodings.names()
B, T, V = 2, 13, 31
PAD = 3
PADDED = T + PAD
WINDOW = Window(4, 2)


@pytest.fixture(params=NAMES, scope="module")
def name(request):
    """A scheme; pytest runs all tests of one before those of the next."""
    yield request.param
    made.cache_clear()
    gradients.cache_clear()


@functools.cache
def made(name, seed, config):
    layers = tuple(name.split(","))
    config = {"num_heads": 6, "num_kv_heads": 3, "num_layers": len(layers), "features": 24} | dict(
        config
    )
    sizes = DecoderConfig(vocab_size=V, encodings=layers, **config)
    model = Decoder(sizes, rngs=nnx.Rngs(seed))
    # Nothing stays zero or alike: a part that is not wired up must show.
    random = np.random.default_rng(seed)
    graphdef, fixed, state = nnx.split(model, PerHeadConstant, ...)
    state = jax.tree.map(lambda x: x + 0.2 * random.normal(size=x.shape).astype(x.dtype), state)
    return graphdef, fixed, state


def make(name, seed=0, **config):
    return nnx.merge(*made(name, seed, tuple(config.items())))


def tokens(batch=B, length=T, seed=1):
    return np.random.default_rng(seed).integers(0, V, (batch, length), np.int32)


@nnx.jit
def forward(model, tokens_BT, segments=None):
    return model(tokens_BT, segments=segments)


@nnx.jit
def grow(model, tokens_BT, caches, segments=None):
    return model(tokens_BT, caches=caches, segments=segments)


@nnx.jit
def placed(model, tokens_BT, positions, segments):
    return model(tokens_BT, positions=positions, segments=segments)


@nnx.jit
def ordered(model, tokens_BT, positions, order):
    return model(tokens_BT, positions=positions, order=order)


@nnx.jit
def dropped(model, tokens_BT, key):
    return model(tokens_BT, key=key)


def close(found, expected, atol=3e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def cached_decode_is_the_full_forward(name, window):
    model, x = make(name, window=window), tokens()
    expected = forward(model, x)
    # With a window the cache is a ring, which the long chunks run over.
    cuts = [(5, 1, 1, 1, 5)] if window else [(5, 1, 1, 1, 5), (1, 1, 1, 5, 5)]
    cuts += [(13,)] if "," in name else []
    for chunks in cuts:
        caches, logits, at = model.init_caches(B, PADDED), [], 0
        for size in chunks:
            part, caches = grow(model, x[:, at : at + size], caches)
            logits.append(part)
            at += size
        close(np.concatenate(logits, 1), expected)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_cached_decode_and_chunked_prefill_are_the_full_forward(name, window):
    cached_decode_is_the_full_forward(name, window)


@pytest.mark.parametrize("window", [None, WINDOW])
@pytest.mark.parametrize(
    "layers",
    [
        "rope,none",
        "fox,t5,fox,t5",
        *(pytest.param(f"{name},{name}", marks=pytest.mark.long) for name in NAMES),
    ],
)
def test_cached_decode_of_several_layers_is_the_full_forward(layers, window):
    cached_decode_is_the_full_forward(layers, window)


def test_decode_with_places_that_are_given_is_the_full_forward(name):
    """Reals or axes where the scheme takes them; else ids that repeat, and an order that does not."""
    model, x = make(name, window=6), tokens()
    scheme = encodings.scheme(name)
    random, more = np.random.default_rng(3), {}
    if scheme.axes != 1:
        at = random.integers(0, 9, (B, T, 2))
    elif scheme.reals:
        at = np.sort(random.uniform(0, 2 * T, (B, T)), 1).astype(np.float32)
    else:
        at, more = random.integers(0, 5, (B, T)), {"order": np.arange(T) * np.ones((B, 1), int)}
    placed = nnx.jit(lambda model, x, caches, **places: model(x, caches=caches, **places))
    expected = placed(model, x, None, positions=at, **more)
    assert jnp.abs(expected - forward(model, x)).max() > 1e-2 or scheme.axes is None
    caches, logits, start = model.init_caches(B, T, positions=at), [], 0
    for size in (5, 1, 1, 1, 5):
        part = {key: p[:, start : start + size] for key, p in ({"positions": at} | more).items()}
        found, caches = placed(model, x[:, start : start + size], caches, **part)
        logits.append(found)
        start += size
    close(np.concatenate(logits, 1), expected)


def test_a_cache_is_given_positions_or_counts_them():
    model, x = make("rope"), tokens()
    counting, placed = (model.init_caches(B, T, positions=at) for at in (None, jnp.zeros((B, T))))
    with pytest.raises(ValueError, match="this cache counts positions"):
        model(x, caches=counting, positions=jnp.arange(T))
    with pytest.raises(ValueError, match="give those of the new tokens too"):
        model(x, caches=placed)
    with pytest.raises(
        ValueError, match=r"made for positions float32\[2, 13\], got int32\[2, 13, 2\]"
    ):
        model(x, caches=placed, positions=jnp.zeros((B, T, 2), jnp.int32))


def test_packed_documents_are_separate_documents(name):
    model, lengths = make(name), ((5, 1, 7), (7, 4, 2))
    documents = [tokens(1, n, seed=n + 20 * row) for row in range(B) for n in lengths[row]]
    packed, ids = tokens(B, PADDED, seed=3), np.zeros((B, PADDED), np.int32)
    for row in range(B):
        packed[row, :T] = np.concatenate(documents[3 * row : 3 * row + 3], 1)
        ids[row, :T] = np.repeat((1, 2, 3), lengths[row])
    found = forward(model, packed, ids)
    # The model is causal: what stands behind a document does not reach it.
    rows = [np.pad(document, ((0, 0), (0, T - document.shape[1]))) for document in documents]
    pairs = [np.concatenate(rows[i : i + B]) for i in range(0, len(rows), B)]
    apart = np.concatenate([forward(model, pair) for pair in pairs])
    for row in range(B):
        alone = zip(apart[3 * row : 3 * row + 3], lengths[row], strict=True)
        close(found[row, :T], np.concatenate([logits[:n] for logits, n in alone]))


def test_left_padded_is_unpadded_in_forward_and_decode(name):
    model, x = make(name), tokens()
    junk = tokens(B, PAD, seed=5)
    padded = np.concatenate([junk, x], 1)
    segments = (np.arange(PADDED) >= PAD) * np.ones((B, 1), np.int32)
    expected = forward(model, x)
    close(forward(model, padded, segments)[:, PAD:], expected)
    caches = model.init_caches(B, T)
    cut = PADDED // 2
    first, caches = grow(model, padded[:, :cut], caches, segments[:, :cut])
    second, caches = grow(model, padded[:, cut:], caches, segments[:, cut:])
    close(np.concatenate([first, second], 1)[:, PAD:], expected)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_rows_of_different_lengths_decode_as_if_alone(name, window):
    model, lengths = make(name, window=window), (3, 8)
    x = tokens()
    segments = (np.arange(8) < np.array(lengths)[:, None]).astype(np.int32)
    caches = model.init_caches(B, T)
    _, caches = grow(model, x[:, :8], caches, segments)
    # Swapping the rows of a cache swaps what follows.
    caches = tuple(cache.take(np.array([1, 0])) for cache in caches)
    found, _ = grow(model, x[::-1, 8:], caches)
    alone = [np.concatenate([x[row, :n], x[row, 8:], x[row, n:8]]) for row, n in enumerate(lengths)]
    expected = forward(model, np.stack(alone))
    for row, source in enumerate((1, 0)):
        n = lengths[source]
        close(found[row], expected[source, n : n + 5])


class _Embedded(nnx.Module):
    """An embedding that has looked its tokens up already."""

    def __init__(self, found, table):
        self.found, self.embedding = nnx.Variable(found), nnx.Variable(table)
        self.features = table.shape[1]

    def __call__(self, tokens_BT):
        return self.found[...]


@functools.cache
def gradients(name):
    """Of the sum of all logits times weights: a function of the weights, to the parameters and the tokens, one-hot."""
    graphdef, trained, fixed = nnx.split(make(name), nnx.Param, ...)

    def loss(trained, one_hot, x, weights):
        model = nnx.merge(graphdef, trained, fixed)
        table = model.embed.table.embedding[...]
        model.embed.table = _Embedded(one_hot @ table, table)
        return (model(x) * weights).sum()

    gradient = jax.jit(jax.grad(loss, (0, 1)))
    x = tokens()
    one_hot = np.eye(V, dtype=np.float32)[x]
    return lambda weights: gradient(trained, one_hot, x, weights)


def test_no_gradient_flows_from_the_past_to_the_future(name):
    t, weights = 6, np.zeros((B, T, V), np.float32)
    weights[:, t] = 1
    gradient = np.abs(gradients(name)(weights)[1]).sum((0, 2))
    assert (gradient[t + 1 :] == 0).all()
    assert (gradient[: t + 1] > 0).all()


def test_every_parameter_of_the_encoding_gets_a_gradient(name):
    weights = np.random.default_rng(0).normal(size=(B, T, V)).astype(np.float32)
    trained = nnx.to_flat_state(gradients(name)(weights)[0])
    found = [(p, g) for p, g in trained if any("encoding" in str(part) for part in p)]
    alone = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    assert bool(found) == bool(jax.tree.leaves(nnx.state(alone, nnx.Param)))
    for path, gradient in found:
        gradient = np.asarray(gradient[...])
        assert np.isfinite(gradient).all(), path
        assert (gradient != 0).any(), path


def test_shifting_all_positions_changes_nothing_where_the_scheme_says_so(name):
    model, x = make(name), tokens()
    scheme = encodings.scheme(name)
    at, ones = np.arange(T) * np.ones((B, 1), np.int32), np.ones((B, T), np.int32)
    here = placed(model, x, at, ones)
    if scheme.shift_invariant:
        close(placed(model, x, at + 1000, ones), here, atol=3e-3)
    else:
        # FIRE changes with the logarithm; a table ends.
        far = 10**7 if model.max_length is None else min(1000, model.max_length - T)
        assert np.abs(placed(model, x, at + far, ones) - here).max() > 1e-2


def test_tokens_follow_each_other_by_their_positions_not_by_their_rows(name):
    model = make(name)
    x, ones = tokens(), np.ones((B, T), np.int32)
    segments = np.where(np.arange(T) < 5, 1, 2) * ones
    at = np.where(np.arange(T) < 5, np.arange(T), np.arange(T) - 5) * ones
    # Behind them padding, in no place.
    pad = lambda x: np.pad(x, ((0, 0), (0, PAD)))  # noqa: E731
    expected = np.asarray(forward(model, pad(x), pad(segments)))[:, :T]
    close(placed(model, x, at, segments), expected)
    moved = np.random.default_rng(2).permutation(T)
    found = placed(model, x[:, moved], at[:, moved], segments[:, moved])
    close(found, expected[:, moved])
    # Positions that say nothing of the order, and an order that does.
    ids, rows = (at * 7) % 5, np.arange(T) * ones
    expected = np.asarray(ordered(model, x, ids, rows))
    close(ordered(model, x[:, moved], ids[:, moved], rows[:, moved]), expected[:, moved])
    other = x.copy()
    other[:, 8] = (x[:, 8] + 1) % V
    changed = ordered(model, other, ids, rows)
    np.testing.assert_array_equal(changed[:, :8], expected[:, :8])


def test_bfloat16_is_close_to_float32(name):
    x = tokens()
    exact = np.asarray(forward(make(name), x))
    rough = np.asarray(forward(make(name, dtype="bfloat16"), x), np.float32)
    error = np.abs(rough - exact).mean() / np.abs(exact).mean()
    assert 0 < error < 0.04


@pytest.mark.parametrize(
    "scheme",  # dense, and along a walk
    ["rope", "cope", *(pytest.param(name, marks=pytest.mark.long) for name in NAMES)],
)
def test_dropout_is_a_function_of_its_key(scheme):
    model, x = make(scheme, dropout_rate=0.4), tokens()
    one, again = (dropped(model, x, jax.random.key(3)) for _ in range(2))
    other = dropped(model, x, jax.random.key(4))
    np.testing.assert_array_equal(one, again)
    assert np.abs(np.asarray(one) - other).max() > 1e-2


@pytest.mark.parametrize("scheme", NAMES[:2])  # the cache's own doing
def test_a_row_longer_than_its_cache_is_nan_and_the_others_are_not(scheme):
    model, x = make(scheme), tokens(2, 8)
    segments = np.array([[1] * 8, [1] * 5 + [0] * 3], np.int32)
    logits, _ = grow(model, x, model.init_caches(2, 6), segments)
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1, :5]).all()
