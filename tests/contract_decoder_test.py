"""The contract of every encoding in a model: one encoding, every situation. Schemes are discovered.

Compiling is what costs time here: all laws of a scheme run one after another, on the same models, and share few
programs, because what they call has the same shapes; a ring is always told which tokens are padding.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.positions import Window
from tests.decoder_programs import (
    B,
    T,
    V,
    caches_of,
    dropped,
    empty,
    forget,
    forward,
    gradients,
    grow,
    grow_at,
    make,
    ordered,
    placed,
    rows_of,
    tokens,
    whole,
)
from tests.kinds import (
    NAMES,
    OF_EACH_CACHE,
    OF_EACH_KIND,
    READ_TOKENS,
    is_trained,
    quick_for,
)

PAD = 3
PADDED = T + PAD
WINDOW = Window(4, 2)


@pytest.fixture(params=quick_for(OF_EACH_KIND), scope="module")
def name(request):
    """A scheme; pytest runs all tests of one before those of the next."""
    yield request.param
    forget()


def long_but_for(*quick):
    """Mark a test that is quick for some schemes; the others' share in it is another test's too."""
    return pytest.mark.parametrize("name", quick_for(quick), indirect=True, scope="module")


def close(found, expected, atol=3e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


def assert_chunks_are_the_whole(expected, grow, caches, chunks):
    """Grow caches by chunks of these sizes; grow: from a slice of the row and the caches."""
    logits, at = [], 0
    for size in chunks:
        part, caches = grow(slice(at, at + size), caches)
        logits.append(part)
        at += size
    close(np.concatenate(logits, 1), expected[:, :at])


def assert_cached_decode_is_the_full_forward(name, window, chunks):
    model, x = make(name, window=window), tokens()

    def grown(at, caches):
        return grow(model, x[:, at], caches, window and np.ones_like(x[:, at]))

    assert_chunks_are_the_whole(whole(name, x, window), grown, empty(name, window), chunks)


@long_but_for(*OF_EACH_CACHE, *READ_TOKENS)  # whose sums go on from token to token
@pytest.mark.parametrize(
    ("window", "chunks"),
    [(None, (5, 1, 1, 1, 5)), (WINDOW, (5, 5))],
    ids=["None", "a ring that chunks run over"],
)
def test_cached_decode_and_chunked_prefill_are_the_full_forward(name, window, chunks):
    assert_cached_decode_is_the_full_forward(name, window, chunks)


@long_but_for(*OF_EACH_CACHE)
def test_tokens_one_by_one_before_chunks_are_the_full_forward(name):
    assert_cached_decode_is_the_full_forward(name, None, (1, 1, 1, 5, 5))


@long_but_for(*OF_EACH_CACHE)
def test_a_ring_takes_tokens_one_by_one(name):
    assert_cached_decode_is_the_full_forward(name, WINDOW, (5, 1, 1, 1, 5))


@pytest.mark.parametrize("window", [None, pytest.param(WINDOW, marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "layers",
    [
        "fox,t5,fox,t5",
        *(
            pytest.param(layers, marks=pytest.mark.long)
            for layers in ("rope,none", *(f"{name},{name}" for name in NAMES))
        ),
    ],
)
def test_cached_decode_of_several_layers_is_the_full_forward(layers, window):
    model, x = make(layers, window=window), tokens()
    expected, caches = forward(model, x), caches_of(model, B, PADDED)
    grown = lambda at, caches: grow(model, x[:, at], caches)  # noqa: E731
    for chunks in ((5, 1, 1, 1, 5), (1, 1, 1, 5, 5), (13,))[:: 2 if window else 1]:
        assert_chunks_are_the_whole(expected, grown, caches, chunks)


def of_its_kind(name, ids_BT):
    """Ids as positions of the kind that a scheme takes: of several axes, reals or integers."""
    scheme = encodings.scheme(name)
    if scheme.axes not in (1, None):
        more = [ids_BT**n % (5 + n) for n in range(2, scheme.axes + 1)]
        return np.stack([ids_BT, *more], -1)
    return (ids_BT * 1.7).astype(np.float32) if scheme.reals else ids_BT


@long_but_for(*OF_EACH_CACHE)
@pytest.mark.parametrize(
    "chunks", [(4, 4, 4), pytest.param((5, 1, 1, 1, 5), marks=pytest.mark.long)]
)
def test_decode_with_places_and_an_order_that_are_given_is_the_full_forward(name, chunks):
    """The places repeat and go back and forth, the order does not."""
    model, x = make(name, window=WINDOW), tokens()
    at = of_its_kind(name, np.random.default_rng(3).integers(0, 5, (B, T), np.int32))
    order = np.arange(T, dtype=np.int32) * np.ones((B, 1), np.int32)
    expected = ordered(model, x, at, order)
    moves = np.abs(expected - whole(name, x, WINDOW)).max() > 1e-2
    assert moves == (encodings.scheme(name).axes is not None)
    caches = caches_of(model, B, T, at)

    def grown(part, caches):
        return grow_at(model, x[:, part], caches, at[:, part], order[:, part])

    assert_chunks_are_the_whole(expected, grown, caches, chunks)


@long_but_for("cope", "rope", "rope_2d", "t5")  # a walk, reals, axes, integers
def test_decode_with_places_that_rise_is_the_full_forward(name):
    model, x = make(name, window=WINDOW), tokens()
    at = of_its_kind(name, np.cumsum(np.random.default_rng(3).integers(1, 3, (B, T)), 1))
    expected = ordered(model, x, at)
    caches = caches_of(model, B, T, at)
    grown = lambda part, caches: grow_at(model, x[:, part], caches, at[:, part])  # noqa: E731
    assert_chunks_are_the_whole(expected, grown, caches, (5, 1, 1, 1, 5))


def test_a_cache_is_given_positions_or_counts_them():
    model, x = make("rope"), tokens()
    counting, placed = (model.init_caches(B, T, positions=at) for at in (None, jnp.zeros((B, T))))
    with pytest.raises(ValueError, match="this cache counts positions"):
        model.decode(x, counting, positions=jnp.arange(T))
    with pytest.raises(ValueError, match="pass those of the new tokens too"):
        model.decode(x, placed)
    with pytest.raises(
        ValueError, match=r"made for positions float32\[2, 13\], got int32\[2, 13, 2\]"
    ):
        model.decode(x, placed, positions=jnp.zeros((B, T, 2), jnp.int32))


@long_but_for(*OF_EACH_CACHE, *READ_TOKENS)  # whose sums go on from token to token
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
    apart = np.concatenate([whole(name, pair) for pair in pairs])
    for row in range(B):
        alone = zip(apart[3 * row : 3 * row + 3], lengths[row], strict=True)
        close(found[row, :T], np.concatenate([logits[:n] for logits, n in alone]))


def test_left_padded_is_unpadded_in_forward_and_decode(name):
    model, x = make(name), tokens()
    junk = tokens(B, PAD, seed=5)
    padded = np.concatenate([junk, x], 1)
    segments = (np.arange(PADDED) >= PAD) * np.ones((B, 1), np.int32)
    expected = whole(name, x)
    close(forward(model, padded, segments)[:, PAD:], expected)
    caches = empty(name)
    cut = PADDED // 2
    first, caches = grow(model, padded[:, :cut], caches, segments[:, :cut])
    second, caches = grow(model, padded[:, cut:], caches, segments[:, cut:])
    close(np.concatenate([first, second], 1)[:, PAD:], expected)


@long_but_for(*OF_EACH_CACHE)
@pytest.mark.parametrize("window", [None, WINDOW])
def test_rows_of_different_lengths_decode_as_if_alone(name, window):
    model, lengths = make(name, window=window), (3, 8)
    x, caches = tokens(), empty(name, window)
    # In one chunk; or in two, of which the second is padding alone in one row.
    size, end = (5, 10) if window else (8, 8)
    segments = (np.arange(end) < np.array(lengths)[:, None]).astype(np.int32)
    for at in range(0, end, size):
        _, caches = grow(model, x[:, at : at + size], caches, segments[:, at : at + size])
    # Swapping the rows of a cache swaps what follows.
    caches = rows_of(caches, np.array([1, 0]))
    found, _ = grow(model, x[::-1, 8:], caches, window and np.ones((B, 5), np.int32))
    alone = [np.concatenate([x[row, :n], x[row, 8:], x[row, n:8]]) for row, n in enumerate(lengths)]
    expected = whole(name, np.stack(alone), window)
    for row, source in enumerate((1, 0)):
        n = lengths[source]
        close(found[row], expected[source, n : n + 5])


def test_no_gradient_flows_from_the_past_to_the_future(name):
    t, weights = 6, np.zeros((B, T, V), np.float32)
    weights[:, t] = 1
    gradient = np.abs(gradients(name, weights)[1]).sum((0, 2))
    assert (gradient[t + 1 :] == 0).all()
    assert (gradient[: t + 1] > 0).all()


@long_but_for(*NAMES)
def test_every_parameter_of_the_encoding_gets_a_gradient(name):
    weights = np.random.default_rng(0).normal(size=(B, T, V)).astype(np.float32)
    trained = nnx.to_flat_state(gradients(name, weights)[0])
    found = [(p, g) for p, g in trained if any("encoding" in str(part) for part in p)]
    assert bool(found) == is_trained(name)
    for path, gradient in found:
        gradient = np.asarray(gradient[...])
        assert np.isfinite(gradient).all(), path
        assert (gradient != 0).any(), path


@long_but_for(*NAMES)  # what each scheme says of itself
def test_shifting_all_positions_changes_nothing_where_the_scheme_says_so(name):
    model, x = make(name), tokens()
    scheme = encodings.scheme(name)
    at, ones = np.arange(T) * np.ones((B, 1), np.int32), np.ones((B, T), np.int32)
    here = placed(model, x, at, ones)
    if scheme.shift_invariant:
        close(placed(model, x, at + 1000, ones), here, atol=3e-3)
    else:
        # FIRE changes with the logarithm; a table ends; whole rows of an image change nothing.
        far = 10**7 + 1 if model.max_length is None else min(1000, model.max_length - T)
        assert np.abs(placed(model, x, at + far, ones) - here).max() > 1e-2


def test_tokens_follow_each_other_by_their_positions_not_by_their_rows(name):
    model = make(name)
    x, ones = tokens(), np.ones((B, T), np.int32)
    segments = np.where(np.arange(T) < 5, 1, 2) * ones
    at = np.where(np.arange(T) < 5, np.arange(T), np.arange(T) - 5) * ones
    # Behind them padding, in no place.
    pad = lambda x: np.pad(x, ((0, 0), (0, PAD)))  # noqa: E731
    expected = forward(model, pad(x), pad(segments))[:, :T]
    close(placed(model, x, at, segments), expected)
    moved = np.random.default_rng(2).permutation(T)
    found = placed(model, x[:, moved], at[:, moved], segments[:, moved])
    close(found, expected[:, moved])
    # Positions that say nothing of the order, and an order that does.
    model = make(name, window=WINDOW)
    ids, rows = of_its_kind(name, (at * 7) % 5), np.arange(T, dtype=np.int32) * ones
    expected = ordered(model, x, ids, rows)
    close(ordered(model, x[:, moved], ids[:, moved], rows[:, moved]), expected[:, moved])
    other = x.copy()
    other[:, 8] = (x[:, 8] + 1) % V
    changed = ordered(model, other, ids, rows)
    np.testing.assert_array_equal(changed[:, :8], expected[:, :8])


def test_bfloat16_is_close_to_float32(name):
    x = tokens()
    exact = whole(name, x)
    rough = np.asarray(forward(make(name, dtype="bfloat16"), x), np.float32)
    error = np.abs(rough - exact).mean() / np.abs(exact).mean()
    # A phase is a product of queries and keys times 2 pi, and so is what they have been rounded by.
    assert 0 < error < (0.08 if name == "tapa" else 0.04)


@long_but_for("cope", "rope")  # along a walk, and dense
def test_dropout_is_a_function_of_its_key(name):
    model, x = make(name, dropout_rate=0.4), tokens()
    one, again = (dropped(model, x, jax.random.key(3)) for _ in range(2))
    other = dropped(model, x, jax.random.key(4))
    np.testing.assert_array_equal(one, again)
    assert np.abs(np.asarray(one) - other).max() > 1e-2


@pytest.mark.parametrize("scheme", NAMES[:2])  # the cache's own doing
def test_a_row_longer_than_its_cache_is_nan_and_the_others_are_not(scheme):
    model, x = make(scheme), tokens(2, 8)
    segments = np.array([[1] * 8, [1] * 5 + [0] * 3], np.int32)
    logits, _ = grow(model, x, caches_of(model, 2, 6), segments)
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1, :5]).all()
