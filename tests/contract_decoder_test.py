"""The contract of every encoding in a model: one encoding, every situation. Schemes are discovered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention import PerHeadConstant
from relpos.nn import Decoder, DecoderConfig

NAMES = encodings.names()
B, T, V = 2, 13, 31


def make(name, seed=0, **config):
    config = {"num_heads": 6, "num_kv_heads": 3, "num_layers": 2, "features": 24} | config
    sizes = DecoderConfig(vocab_size=V, encodings=tuple(name.split(",")), **config)
    model = Decoder(sizes, rngs=nnx.Rngs(seed))
    # Nothing stays zero or alike: a part that is not wired up must show.
    random = np.random.default_rng(seed)
    graphdef, fixed, state = nnx.split(model, PerHeadConstant, ...)
    state = jax.tree.map(lambda x: x + 0.2 * random.normal(size=x.shape).astype(x.dtype), state)
    return nnx.merge(graphdef, fixed, state)


def tokens(batch=B, length=T, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, V, (batch, length)), jnp.int32)


@nnx.jit
def forward(model, tokens_BT, segments=None):
    return model(tokens_BT, segments=segments)


@nnx.jit
def grow(model, tokens_BT, caches, segments=None):
    return model(tokens_BT, caches=caches, segments=segments)


def close(found, expected, atol=3e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("name", [*NAMES, "rope,none"])
def test_cached_decode_and_chunked_prefill_are_the_full_forward(name, window):
    model, x = make(name, window=window), tokens()
    expected = forward(model, x)
    # With a window the cache is a ring, which the long chunks run over.
    cuts = [(5, 1, 1, 1, 5)] if window else [(13,), (5, 1, 1, 1, 5), (1, 1, 1, 5, 5)]
    for chunks in cuts:
        caches, logits, at = model.init_caches(B, T + 3), [], 0
        for size in chunks:
            part, caches = grow(model, x[:, at : at + size], caches)
            logits.append(part)
            at += size
        close(jnp.concatenate(logits, 1), expected)


@pytest.mark.parametrize("name", NAMES)
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
    close(jnp.concatenate(logits, 1), expected)


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


@pytest.mark.parametrize("name", NAMES)
def test_packed_documents_are_separate_documents(name):
    model = make(name)
    lengths = (5, 1, 7)
    documents = [tokens(1, n, seed=n) for n in lengths]
    packed = jnp.concatenate([*documents, tokens(1, 3)], 1)
    ids = [[i + 1] * n for i, n in enumerate(lengths)]
    segments = jnp.array([[n for run in ids for n in run] + [0] * 3])
    found = forward(model, packed, segments)[:, : sum(lengths)]
    # The model is causal: what stands behind a document does not reach it.
    rows = [
        jnp.pad(document, ((0, 0), (0, 7 - n)))
        for document, n in zip(documents, lengths, strict=True)
    ]
    apart = forward(model, jnp.concatenate(rows))
    close(found[0], jnp.concatenate([apart[i, :n] for i, n in enumerate(lengths)]))


@pytest.mark.parametrize("name", NAMES)
def test_left_padded_is_unpadded_in_forward_and_decode(name):
    model, x, pad = make(name), tokens(), 4
    junk = tokens(B, pad, seed=5)
    padded = jnp.concatenate([junk, x], 1)
    segments = jnp.concatenate([jnp.zeros_like(junk), jnp.ones_like(x)], 1)
    expected = forward(model, x)
    close(forward(model, padded, segments)[:, pad:], expected)
    caches = model.init_caches(B, T)
    cut = pad + 6
    first, caches = grow(model, padded[:, :cut], caches, segments[:, :cut])
    second, caches = grow(model, padded[:, cut:], caches, segments[:, cut:])
    close(jnp.concatenate([first, second], 1)[:, pad:], expected)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("name", NAMES)
def test_rows_of_different_lengths_decode_as_if_alone(name, window):
    model, lengths = make(name, window=window), (3, 8)
    x = tokens(2, 12)
    prompts = x[:, :8]
    segments = (jnp.arange(8) < jnp.array(lengths)[:, None]).astype(jnp.int32)
    caches = model.init_caches(2, 12)
    _, caches = grow(model, prompts, caches, segments)
    # Swapping the rows of a cache swaps what follows.
    caches = tuple(cache.take(jnp.array([1, 0])) for cache in caches)
    following = jnp.stack([x[1, 8:12], x[0, 8:12]])
    found, _ = grow(model, following, caches)
    alone = [
        jnp.concatenate([x[row, :n], x[row, 8:12], x[row, n:8]]) for row, n in enumerate(lengths)
    ]
    expected = forward(model, jnp.stack(alone))
    for row, source in enumerate((1, 0)):
        n = lengths[source]
        close(found[row], expected[source, n : n + 4])


class _Embedded(nnx.Module):
    """An embedding that has looked its tokens up already."""

    def __init__(self, found, table):
        self.found, self.embedding = nnx.Variable(found), nnx.Variable(table)
        self.features = table.shape[1]

    def __call__(self, tokens_BT):
        return self.found[...]


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_flows_from_the_past_to_the_future(name):
    model, x, t = make(name), tokens(), 6
    embedded = jax.nn.one_hot(x, V)

    graphdef, state = nnx.split(model)

    @jax.jit
    def logit_at_t(one_hot):
        model = nnx.merge(graphdef, state)
        table = model.embed.table.embedding[...]
        model.embed.table = _Embedded(one_hot @ table, table)
        return model(x)[:, t].sum()

    gradient = jnp.abs(jax.grad(logit_at_t)(embedded)).sum((0, 2))
    assert (gradient[t + 1 :] == 0).all()
    assert (gradient[: t + 1] > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_shifting_all_positions_changes_nothing_where_the_scheme_says_so(name):
    model, x = make(name), tokens()
    scheme = encodings.scheme(name)
    at = jnp.broadcast_to(jnp.arange(T), x.shape)
    placed = nnx.jit(lambda model, positions: model(x, positions=positions))
    here = placed(model, at)
    if scheme.shift_invariant:
        close(placed(model, at + 1000), here, atol=3e-3)
    else:
        # FIRE changes with the logarithm; a table ends.
        far = 10**7 if model.max_length is None else min(1000, model.max_length - T)
        assert jnp.abs(placed(model, at + far) - here).max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_tokens_follow_each_other_by_their_positions_not_by_their_rows(name):
    model, x = make(name), tokens()
    segments = jnp.where(jnp.arange(T) < 5, 1, 2) * jnp.ones_like(x)
    at = jnp.where(jnp.arange(T) < 5, jnp.arange(T), jnp.arange(T) - 5) * jnp.ones_like(x)
    placed = nnx.jit(lambda model, x, at, ids: model(x, positions=at, segments=ids))
    expected = forward(model, x, segments)
    close(placed(model, x, at, segments), expected)
    moved = jnp.asarray(np.random.default_rng(2).permutation(T))
    found = placed(model, x[:, moved], at[:, moved], segments[:, moved])
    close(found, expected[:, moved])
    # Positions that say nothing of the order, and an order that does.
    ordered = nnx.jit(lambda model, x, at, order: model(x, positions=at, order=order))
    ids, rows = (at * 7) % 5, jnp.arange(T) * jnp.ones_like(x)
    expected = ordered(model, x, ids, rows)
    close(ordered(model, x[:, moved], ids[:, moved], rows[:, moved]), expected[:, moved])
    changed = ordered(model, x.at[:, 8].set((x[:, 8] + 1) % V), ids, rows)
    np.testing.assert_array_equal(changed[:, :8], expected[:, :8])


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_close_to_float32(name):
    x = tokens()
    exact = forward(make(name), x)
    rough = forward(make(name, dtype="bfloat16"), x)
    error = jnp.abs(rough - exact).mean() / jnp.abs(exact).mean()
    assert 0 < error < 0.04


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_a_function_of_its_key(name):
    model, x = make(name, dropout_rate=0.4), tokens()
    dropped = nnx.jit(lambda model, key: model(x, key=key))
    one, again = (dropped(model, jax.random.key(3)) for _ in range(2))
    other = dropped(model, jax.random.key(4))
    np.testing.assert_array_equal(one, again)
    assert jnp.abs(one - other).max() > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_of_the_encoding_gets_a_gradient(name):
    model, x = make(name), tokens(4, 60)

    def loss(model):
        return (model(x) * jax.random.normal(jax.random.key(0), (4, 60, V))).sum()

    gradients = nnx.to_flat_state(nnx.jit(nnx.grad(loss))(model))
    found = [(p, g) for p, g in gradients if any("encoding" in str(part) for part in p)]
    alone = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    assert bool(found) == bool(jax.tree.leaves(nnx.state(alone, nnx.Param)))
    for path, gradient in found:
        assert jnp.isfinite(gradient[...]).all(), path
        assert (gradient[...] != 0).any(), path


@pytest.mark.parametrize("name", NAMES[:2])  # the cache's own doing
def test_a_row_longer_than_its_cache_is_nan_and_the_others_are_not(name):
    model, x = make(name), tokens(2, 8)
    segments = jnp.array([[1] * 8, [1] * 5 + [0] * 3])
    logits, _ = grow(model, x, model.init_caches(2, 6), segments)
    assert jnp.isnan(logits[0]).all()
    assert jnp.isfinite(logits[1, :5]).all()
