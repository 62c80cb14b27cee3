"""Ways to place tokens: each against a loop written from its paper, in one piece and token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import places
from relpos.nn import Decoder, Encoder, Sampling, SpanEncoder, TransformerConfig, generate

B, T, V = 3, 13, 7
DIGITS = (2, 5, 6)
TOKENS = jnp.asarray(np.random.default_rng(1).choice([2, 5, 6, 2, 1, 0], (B, T)), jnp.int32)
PACKED = jnp.asarray([[1] * 5 + [2] * 6 + [0] * 2, [0] * 3 + [4] * 10, [3] * 13])


def make(name, **options):
    return places.create(name, digits=DIGITS, **options)


def randomized_by_hand(tokens, segments, turn):
    """turn[p]: as which one p is drawn."""
    out = np.zeros(tokens.shape, int)
    for b in range(len(tokens)):
        n = int((segments[b] != 0).sum())
        drawn = sorted(p for p in range(len(turn)) if turn[p] < n)
        for i, t in enumerate(np.flatnonzero(segments[b])):
            out[b, t] = drawn[i]
    return out


def abacus_by_hand(tokens, segments, offset):
    out = np.zeros(tokens.shape, int)
    for b in range(len(tokens)):
        for t in range(tokens.shape[1]):
            first, mine = t, segments[b, t]
            while first >= 0 and tokens[b, first] in DIGITS and segments[b, first] == mine != 0:
                first -= 1
            out[b, t] = t - first + offset if first < t else 0
    return out


@pytest.mark.parametrize("seed", [None, 0, 7])
@pytest.mark.parametrize("length", [13, 60])
def test_randomized_positions_are_a_sorted_draw(length, seed):
    key = None if seed is None else jax.random.key(seed)
    placed, _ = make("randomized", max_length=length).begin(TOKENS, PACKED, key=key)
    turn = jax.random.permutation(jax.random.key(0) if key is None else key, length)
    expected = randomized_by_hand(np.asarray(TOKENS), np.asarray(PACKED), np.asarray(turn))
    there = np.asarray(PACKED) != 0
    np.testing.assert_array_equal(np.asarray(placed.positions)[there], expected[there])
    order = np.cumsum(there, 1)
    np.testing.assert_array_equal(np.asarray(placed.order)[there], order[there])


def test_every_position_is_drawn_as_often():
    way = make("randomized", max_length=10)
    draw = jax.jit(jax.vmap(lambda key: way.begin(TOKENS[:1, :4], key=key)[0].positions[0]))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 4000)))
    assert (np.diff(drawn, axis=1) > 0).all()
    np.testing.assert_allclose(np.bincount(drawn.ravel(), minlength=10) / 4000, 0.4, atol=0.03)


@pytest.mark.parametrize("seed", [None, 0, 1, 2])
def test_abacus_counts_the_digits_of_each_number(seed):
    key = None if seed is None else jax.random.key(seed)
    placed, _ = make("abacus", max_offset=4).begin(TOKENS, PACKED, key=key)
    offset = 0 if key is None else int(jax.random.randint(key, (), 0, 5))
    expected = abacus_by_hand(np.asarray(TOKENS), np.asarray(PACKED), offset)
    np.testing.assert_array_equal(placed.embed_positions, expected)
    assert placed.positions is None


def place_in_segment(segments):
    """Each token's place behind its segment's first."""
    return [
        [t - list(row).index(segment) for t, segment in enumerate(row)]
        for row in np.asarray(segments)
    ]


def test_shape_shifts_each_row_as_a_whole():
    index = np.array(place_in_segment(PACKED))
    placed, _ = make("shape", max_shift=3).begin(TOKENS, PACKED)
    np.testing.assert_array_equal(placed.embed_positions, index + 3)
    draw = jax.jit(
        jax.vmap(lambda key: make("shape", max_shift=3).begin(TOKENS, PACKED, key=key)[0])
    )
    shifts = np.asarray(draw(jax.random.split(jax.random.key(0), 500)).embed_positions) - index
    assert (shifts == shifts[..., :1]).all()
    counts = [np.bincount(of_row, minlength=4) for of_row in shifts[..., 0].T]
    np.testing.assert_allclose(counts, np.full((B, 4), 125), atol=45)
    assert (np.asarray(counts[0]) != counts[1]).any()  # each row has its own


def test_cape_shifts_jitters_and_stretches():
    """s (t + k + e_t): two draws tell s and k, up to the jitter."""
    way = make("cape", max_shift=7.0, max_jitter=0.25, max_scale=2.0)
    index = np.array(place_in_segment(PACKED))
    np.testing.assert_array_equal(way.begin(TOKENS, PACKED)[0].embed_positions, index)
    draw = jax.jit(jax.vmap(lambda key: way.begin(TOKENS, PACKED, key=key)[0].embed_positions))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)), np.float64)
    first, last = drawn[:, 2, 0], drawn[:, 2, -1]  # a row of one document
    slope = (last - first) / (T - 1)
    assert np.abs(np.log(slope)).max() < np.log(2) + 0.5 / (T - 1)
    assert np.abs(np.quantile(np.log(slope), [0.25, 0.5, 0.75]) / np.log(2) - [-0.5, 0, 0.5]).max() < 0.1  # fmt: skip
    assert 6.5 < np.abs(first / slope).max() < 7.25 * 1.1
    assert abs(np.mean(first / slope)) < 0.5
    # Without the others only the jitter is left: each token's own, uniform.
    still = make("cape", max_shift=0.0, max_scale=1.0)
    jitter = np.asarray(still.begin(TOKENS, PACKED, key=jax.random.key(1))[0].embed_positions) - index  # fmt: skip
    assert len(set(jitter.ravel().tolist())) == B * T
    assert 0.4 < np.abs(jitter).max() <= 0.5


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_coupling_is_where_a_digit_is_worth_as_much(seed):
    key = None if seed is None else jax.random.key(seed)
    ids, _ = make("coupling", max_position=9).begin(TOKENS, PACKED, key=key)
    counts = abacus_by_hand(np.asarray(TOKENS), np.asarray(PACKED), 0)
    start = np.ones(B, int)
    if key is not None:
        start = np.asarray(jax.random.randint(key, (B,), 1, 10 - counts.max(1)))
        assert (start > 1).any()
    expected = np.where(np.asarray(PACKED) != 0, start[:, None] + counts, 0)
    np.testing.assert_array_equal(ids.embed_positions, expected)
    assert ids.embed_positions.max() <= 9
    assert ids.positions is None


def test_coupled_digits_of_a_sum_are_those_of_the_authors():
    """653+49=702 from the lowest digits on: their code has 1 for + and =, then 2, 3, 4 in each number."""
    digits, plus, equals = {"digits": tuple(range(10))}, 10, 11
    tokens = jnp.array([[3, 5, 6, plus, 9, 4, equals, 2, 0, 7]])
    placed, _ = places.create("coupling", **digits).begin(tokens)
    np.testing.assert_array_equal(placed.embed_positions[0], [2, 3, 4, 1, 2, 3, 1, 2, 3, 4])


@pytest.mark.parametrize("name", places.names())
def test_token_by_token_is_all_at_once(name):
    way, at = make(name), 4
    whole, _ = way.begin(TOKENS)
    part, state = way.begin(TOKENS[:, :at], more=T - at)
    parts = [part]
    while at < T:
        part, state = way.follow(state, TOKENS[:, at : at + 1])
        parts.append(part)
        at += 1
    joined = jax.tree.map(lambda *x: jnp.concatenate(x, 1), *parts)
    jax.tree.map(np.testing.assert_array_equal, joined, whole)


def decoder(kind, name, *names, **options):
    sizes = TransformerConfig(
        num_layers=2, features=16, num_heads=2, encodings=names or ("rope",)
    )  # fmt: skip
    model = kind(sizes, vocab_size=V, places=make(name, **options), rngs=nnx.Rngs(0))
    # Larger weights: an untrained model says one token over and over.
    random = np.random.default_rng(0)
    graphdef, state = nnx.split(model)
    state = jax.tree.map(lambda x: x + jnp.asarray(random.normal(size=x.shape), x.dtype), state)
    return nnx.merge(graphdef, state)


@pytest.mark.parametrize("name", places.names())
def test_greedy_continuations_are_those_of_full_forwards(name):
    model, lengths, new = decoder(Decoder, name), np.array([4, 1, 3]), 5
    tokens, _ = generate(
        model, TOKENS[:, :4], jnp.asarray(lengths), max_new_tokens=new, stop=-1,
        sampling=Sampling(temperature=0), key=jax.random.key(0),
    )  # fmt: skip
    rows = np.zeros((B, 4 + new), np.int32)
    for row, prompt, n, more in zip(rows, TOKENS, lengths, tokens, strict=True):
        row[: n + new] = [*prompt[:n], *more]
    segments = jnp.asarray(np.arange(4 + new) < lengths[:, None] + new, jnp.int32)
    best = nnx.jit(lambda model, x: model(x, segments=segments))(model, jnp.asarray(rows)).argmax(
        -1
    )
    for found, n, more in zip(np.asarray(best), lengths, tokens, strict=True):
        np.testing.assert_array_equal(found[n - 1 : n + new - 1], more)
    with pytest.raises(ValueError, match="a cache or an earlier segment does not hold them"):
        model.decode(TOKENS, model.init_caches(B, T))


@pytest.mark.parametrize("name", places.names())
def test_models_place_their_tokens_anew_in_training_and_alike_at_test(name):
    model = decoder(Encoder, name)
    run = nnx.jit(lambda model, key: model(TOKENS, segments=PACKED, key=key))
    one, other, again = (run(model, jax.random.key(seed)) for seed in (1, 2, 1))
    assert jnp.abs(one - other).max() > 1e-2
    np.testing.assert_array_equal(one, again)
    placed = model.places.begin(TOKENS, PACKED)[0]._asdict()
    given = nnx.jit(lambda model: model(TOKENS, segments=PACKED, **placed))
    np.testing.assert_allclose(run(model, None), given(model), atol=1e-6)
    span = decoder(SpanEncoder, name)
    parts, all_of_them = jnp.minimum(PACKED, 2), jnp.ones((B, T), bool)
    starts = nnx.jit(lambda model, key: model(TOKENS, parts, all_of_them, key=key)[0])
    assert jnp.abs(starts(span, jax.random.key(1)) - starts(span, None)).max() > 1e-2


def test_abacus_adds_learned_vectors_at_the_digits_places_alone():
    """Beside a scheme that adds to the input itself, which keeps the tokens' own places."""
    model = decoder(Decoder, "abacus", "sinusoidal")
    x, ids = jnp.ones((1, T, 16)), jnp.arange(T)[::-1][None]
    alone = nnx.clone(model.stack)
    alone.input_encoding = None
    expected = alone(x + model.stack.input_encoding.table[ids])
    found = model.stack(x, places.Placed(embed_positions=ids))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)  # sums of about 1000
    assert jnp.abs(found - model.stack(x)).max() > 10


def test_what_does_not_go_together_is_refused():
    with pytest.raises(ValueError, match="14 tokens are more than the 13 positions"):
        make("randomized", max_length=T).begin(TOKENS, more=1)
    with pytest.raises(
        ValueError, match="positions up to 2047 are drawn, more than the 512 of tupe"
    ):
        decoder(Decoder, "randomized", "tupe")
    sizes = TransformerConfig(num_layers=1, features=16, num_heads=2)
    for name, largest in (("coupling", 132), ("abacus", 100)):
        of_rows = lambda rows, name=name: Decoder(  # noqa: E731
            sizes, vocab_size=V, places=make(name), encoding_options={"learned": {"max_length": rows}},
            rngs=nnx.Rngs(0),
        )  # fmt: skip
        of_rows(largest + 1)
        with pytest.raises(
            ValueError, match=f"up to {largest} are drawn, more than the {largest} of learned"
        ):
            of_rows(largest)
    with pytest.raises(ValueError, match="did you mean 'randomized'"):
        places.create("randomised")
    with pytest.raises(ValueError, match="did you mean 'max_length'"):
        places.create("randomized", max_lenght=3)
    for name, options in (
        ("randomized", {"max_length": 0}), ("abacus", {"max_offset": -1}), ("shape", {"max_shift": -1}),
        ("cape", {"max_scale": 0.9}), ("cape", {"max_jitter": -0.1}), ("coupling", {"max_position": 0}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}.{next(iter(options))} must be from"):
            places.create(name, **options)
    for name in places.names():
        for key, default in places.options(name).items():
            for value in ("3", None, True, float("nan"), *([2.5] if type(default) is int else [])):
                with pytest.raises(ValueError, match=f"{name}.{key} must be"):
                    places.create(name, **{key: value})
    assert decoder(Decoder, "randomized").max_length == 2048
    assert decoder(Decoder, "abacus").max_length is None
