"""The contract of every encoding in an encoder-decoder: in the encoder, the decoder and between them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention import PerHeadConstant
from relpos.nn import (
    Beams,
    DecoderConfig,
    Encoder,
    EncoderDecoder,
    EncoderDecoderConfig,
    StackConfig,
    beam_search,
)
from relpos.nn.encoder_decoder import Decoding

NAMES = encodings.names()
B, S, T, V = 2, 11, 7, 13
BEGIN, END = 0, 1


def shaken(model, seed=0, size=0.2):
    """Nothing stays zero or alike: a part that is not wired up must show."""
    random = np.random.default_rng(seed)
    graphdef, fixed, state = nnx.split(model, PerHeadConstant, ...)
    shake = lambda x: x + size * random.normal(size=x.shape).astype(x.dtype)  # noqa: E731
    return nnx.merge(graphdef, fixed, jax.tree.map(shake, state))


@functools.cache
def model_of(encoder, decoder, cross, norm):
    sizes = {"num_heads": 4, "num_kv_heads": 2, "num_layers": 1, "features": 24, "norm": norm}
    chosen = EncoderDecoderConfig(
        V + 2,
        V,
        StackConfig(encodings=(encoder,), **sizes),
        StackConfig(encodings=(decoder,), **sizes),
        cross,
    )
    return nnx.split(shaken(EncoderDecoder(chosen, rngs=nnx.Rngs(0))))


def make(encoder="rope", decoder="rope", cross="none"):
    """A model of the schemes in these places; every second has its norms behind the layers."""
    place = (encoder, decoder, cross)
    norm = ("pre", "post")[PLACES.index(place) % 2] if place in PLACES else "pre"
    return nnx.merge(*model_of(*place, norm))


def places():
    """Every scheme in every place where it has a meaning."""
    for name in NAMES:
        scheme = encodings.scheme(name)
        bidirectional = "bidirectional" in encodings.options(name)
        both_sides = not getattr(made(name), "causal_only", False) or bidirectional
        if both_sides:
            yield name, name, "none" if scheme.adds_to_input() else name
        else:
            yield "none", name, "none"


def made(name):
    return encodings.create(name, num_heads=1, head_dim=4, rngs=nnx.Rngs(0))


PLACES = list(places())


@pytest.fixture(params=PLACES, ids=str, scope="module")
def place(request):
    """Schemes in their places; pytest runs all tests of one model before those of the next."""
    yield request.param
    model_of.cache_clear()


def tokens(length, vocab=V, seed=1):
    return np.random.default_rng(seed).integers(2, vocab, (B, length), np.int32)


def close(found, expected, atol=3e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)


@nnx.jit
def forward(model, source, target, source_segments=None, target_segments=None):
    return model(source, target, source_segments=source_segments, target_segments=target_segments)


@nnx.jit
def start(model, source, segments):
    return model.start(source, segments, max_length=T)


@nnx.jit
def step(model, token, decoding):
    return model.step(token, decoding)


def test_step_by_step_is_the_whole_target_at_once(place):
    model, source, target = make(*place), tokens(S, V + 2), tokens(T)
    segments = (np.arange(S) < np.array([[S], [S - 4]])).astype(np.int32)
    expected = forward(model, source, target, segments, np.ones_like(target))
    decoding, found = start(model, source, segments), []
    for t in range(T):
        logits, decoding = step(model, target[:, t : t + 1], decoding)
        found.append(logits)
    close(np.concatenate(found, 1), expected)
    # Without segments; one row of the same, twice, so that pairs that are not packed take this program too.
    short = forward(model, source[[1, 1], : S - 4], target[[1, 1]])
    close(short, np.asarray(expected)[[1, 1]])


def test_pairs_packed_into_a_row_do_not_see_each_other(place):
    model = make(*place)
    source, target = tokens(S - 4, V + 2), tokens(T)
    row = lambda x: x.reshape(1, -1)  # noqa: E731
    ids = lambda n: np.repeat(np.array([[1, 2]], np.int32), n, 1)  # noqa: E731
    packed = forward(model, row(source), row(target), ids(S - 4), ids(T))
    close(packed.reshape(B, T, -1), forward(model, source, target))


def test_every_parameter_learns(place):
    model, source, target = make(*place), tokens(S, V + 2), tokens(T)
    graphdef, trained, fixed = nnx.split(model, nnx.Param, ...)

    def loss(trained):
        logits = nnx.merge(graphdef, trained, fixed)(source, target)
        weight = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32)
        return (logits * weight).sum()

    for path, gradient in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(trained)):
        gradient = np.asarray(gradient)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_sees_both_sides(name):
    config = DecoderConfig(
        vocab_size=V, num_layers=1, features=24, num_heads=4, encodings=(name,), norm="post"
    )
    if made(name).causal_only and "bidirectional" not in encodings.options(name):
        with pytest.raises(ValueError, match="causal"):
            Encoder(config, rngs=nnx.Rngs(0))
        return
    model = shaken(Encoder(config, rngs=nnx.Rngs(0)))
    x = tokens(T)
    encode = nnx.jit(lambda model, x, segments=None: model.logits(model(x, segments=segments)))
    whole = encode(model, x)
    assert whole.shape == (B, T, V)
    for changed in (0, T - 1):
        other = encode(model, np.where(np.arange(T) == changed, (x + 1) % V, x))
        assert (np.abs(np.asarray(other) - whole).max(-1) > 1e-6).all()
    padded = np.pad(x, ((0, 0), (0, 3)), constant_values=5)
    segments = (np.arange(T + 3) < T).astype(np.int32)[None].repeat(B, 0)
    close(encode(model, padded, segments)[:, :T], whole)


@pytest.mark.parametrize("name", NAMES)
def test_what_cross_attention_cannot_have_is_refused(name):
    scheme = made(name)
    if any(place[2] == name for place in PLACES) or name == "none":
        return
    with pytest.raises(ValueError, match=r"adds positions to the input|along one sequence|causal"):
        make("none", "none", name)
    assert scheme.adds_to_input() or scheme.causal_only


def every_target(model, source, length):
    """All targets up to a length with their log probabilities."""
    found = {}

    def visit(prefix, log_probability):
        row = jnp.array([[BEGIN, *prefix]])
        log = jax.nn.log_softmax(forward(model, source, row)[0, -1])
        if len(prefix) == length:
            found[prefix] = log_probability + log[END]
            return
        for token in range(4):
            if token == END:
                found[prefix] = log_probability + log[END]
            else:
                visit((*prefix, token), log_probability + log[token])

    visit((), 0.0)
    return found


def small_model(seed):
    sizes = {"num_heads": 2, "num_layers": 1, "features": 8}
    stack = StackConfig(encodings=("rope",), **sizes)
    config = EncoderDecoderConfig(4, 4, stack, stack, share_embeddings=True)
    return shaken(EncoderDecoder(config, rngs=nnx.Rngs(seed)), seed, size=0.5)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_enough_beams_find_the_best_of_all_targets(penalty):
    model, M = small_model(0), 3
    source = jnp.array([[2, 3, 2]])
    log = every_target(model, source, M)
    ranked = sorted(log, key=lambda t: -log[t] / ((5 + len(t) + 1) / 6) ** penalty)
    found = beam_search(model, source, beams=Beams(40, penalty), max_length=M, begin=BEGIN, end=END)
    for i, target in enumerate(ranked):
        assert tuple(found.tokens[0, i, : found.lengths[0, i]].tolist()) == target
        expected = log[target] / ((5 + len(target) + 1) / 6) ** penalty
        assert found.scores[0, i] == pytest.approx(float(expected), abs=1e-4)
    assert (found.tokens[0, 0, found.lengths[0, 0] :] == END).all()


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_takes_the_most_probable_token(seed):
    model, M = small_model(seed), 6
    source = jnp.array([[2, 3, 2, 0], [3, 3, 0, 2]])
    found = beam_search(model, source, beams=Beams(1), max_length=M, begin=BEGIN, end=END)
    for row in range(2):
        target = [BEGIN]
        while len(target) <= M:
            token = int(forward(model, source[row : row + 1], jnp.array([target]))[0, -1].argmax())
            if token == END:
                break
            target.append(token)
        assert found.tokens[row, 0, : found.lengths[row, 0]].tolist() == target[1:]


def test_a_row_is_searched_as_if_alone():
    model = small_model(2)
    sources = jnp.array([[2, 3, 2, 0], [3, 3, 0, 2], [0, 0, 0, 3]])
    kw = {"beams": Beams(3), "max_length": 9, "begin": BEGIN, "end": END}
    together = beam_search(model, sources, **kw)
    for row in range(3):
        alone = beam_search(model, sources[row : row + 1], **kw)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_array_equal(alone.lengths[0], together.lengths[row])
    # Padding is not seen.
    padded = jnp.pad(sources, ((0, 0), (0, 2)), constant_values=3)
    segments = (jnp.arange(6) < 4).astype(jnp.int32)[None].repeat(3, 0)
    np.testing.assert_array_equal(
        beam_search(model, padded, segments, **kw).tokens, together.tokens
    )


def test_targets_of_a_given_length_have_it():
    model = small_model(1)
    sources = jnp.array([[2, 3, 2, 0], [3, 3, 0, 2], [0, 0, 0, 3]])
    lengths = jnp.array([0, 4, 2])
    found = beam_search(
        model, sources, beams=Beams(2), max_length=5, begin=BEGIN, end=END, lengths_B=lengths
    )
    assert found.lengths[:, 0].tolist() == lengths.tolist()
    for row in range(3):
        assert (found.tokens[row, 0, : lengths[row]] != END).all()


class Sure(nnx.Module):
    """Writes as many 2 as the source's first token says, then the end, which is always the second choice."""

    def start(self, source, segments, *, max_length, beams):
        cache = Count(jnp.repeat(source[:, 0], beams))
        return Decoding((cache,), ())

    def step(self, token, decoding):
        (cache,) = decoding.caches
        first = jnp.where(cache.left > 0, 2, END)
        logits = 9.0 * jax.nn.one_hot(first, 4) + 5.0 * jax.nn.one_hot(END, 4)
        return logits[:, None], Decoding((Count(cache.left - 1),), ())


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Count:
    left: jax.Array

    def take(self, rows):
        return Count(self.left[rows])


@pytest.mark.parametrize("size", [1, 2, 4])
def test_stumps_do_not_keep_the_right_target_out(size):
    kw = {"beams": Beams(size), "max_length": 12, "begin": BEGIN, "end": END}
    found = beam_search(Sure(), jnp.array([[8]]), **kw)
    assert found.lengths[0, 0] == 8
    assert (found.tokens[0, 0, :8] == 2).all()


def test_rows_of_padding_are_not_waited_for():
    kw = {"beams": Beams(1), "max_length": 12, "begin": BEGIN, "end": END}
    sources = jnp.array([[2], [8]])
    assert beam_search(Sure(), sources, **kw).lengths[:, 0].tolist() == [2, 8]
    found = beam_search(Sure(), sources, jnp.array([[1], [0]]), **kw)
    assert found.lengths[0, 0] == 2
    assert found.scores[1, 0] < -1e29  # the search was over before it ended
