"""The contract of every encoding in an encoder-decoder: in the encoder, the decoder and between them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.nn import (
    Beams,
    Encoder,
    EncoderDecoder,
    TokenEncoder,
    TransformerConfig,
    beam_search,
)
from relpos.nn.encoder_decoder import Decoding
from tests.drawn import drawn
from tests.kinds import NAMES, OF_EACH_KIND

B, S, T, V = 2, 11, 7, 13
BEGIN, END = 0, 1


@functools.cache
def model_of(encoder, decoder, cross, norm):
    sizes = {"num_heads": 4, "num_kv_heads": 2, "num_layers": 1, "features": 24}
    of_decoder = TransformerConfig(encodings=(decoder,), norm_placement=norm, **sizes)
    make = lambda: EncoderDecoder(  # noqa: E731
        encoder=dataclasses.replace(of_decoder, encodings=(encoder,)), decoder=of_decoder,
        source_vocab=V + 2, target_vocab=V, cross_encoding=cross, rngs=nnx.Rngs(0),
    )  # fmt: skip
    return drawn(make, of_decoder)


def make(encoder="rope", decoder="rope", cross="none"):
    """A model of the schemes in these places; every second has its norms behind the layers."""
    place = (encoder, decoder, cross)
    norm = ("pre", "post")[PLACES.index(place) % 2] if place in PLACES else "pre"
    return nnx.merge(*model_of(*place, norm))


def places():
    """Every scheme in every place where it has a meaning."""
    for name in NAMES:
        scheme = encodings.scheme(name)
        if sees_the_past_alone(name):
            yield "none", name, "none"
        else:
            within = scheme.adds_to_input() or scheme.needs_tokens
            yield name, name, "none" if within else name


@functools.cache
def made(name):
    """A scheme without numbers."""
    create = functools.partial(encodings.create, num_heads=1, head_dim=4)
    return nnx.eval_shape(lambda: create(name, rngs=nnx.Rngs(0)))


def sees_the_past_alone(name):
    return made(name).causal_only and "bidirectional" not in encodings.options(name)


PLACES = list(places())
# What sees the past alone stands in the decoder alone, where the contract of decoders sees it too. Of those that fill
# the same slots, or add to the input, one is quick; a mix of heads and a network of pairs are quick in decoders.
ALIKE = (
    "cpb_2d", "dape", "fire", "fope", "hope", "huang", "kerple", "learned", "mrope", "music", "pope", "rope_2d",
    "sandwich", "sink", "table_2d", "tisa", "transformer_xl", "tupe",
)  # fmt: skip
FEW = [
    place
    for place in PLACES
    if place[1] in ("fox", "path")
    or (place[0] == place[1] and place[1] in OF_EACH_KIND and place[1] not in ALIKE)
]


@pytest.fixture(
    params=[pytest.param(p, marks=() if p in FEW else pytest.mark.long) for p in PLACES],
    ids=str,
    scope="module",
)
def place(request):
    """Schemes in their places; pytest runs all tests of one model before those of the next."""
    yield request.param
    for kept in (model_of, differentiated):
        kept.cache_clear()


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


# Of one pair of several in a row, and of the pairs whose gradients are taken.
ONE_S, ONE_T = 5, 3


@functools.cache
def differentiated(place):
    """A function of pairs without segments: the gradients of a weighted sum of the logits, and the logits."""
    graphdef, trained, fixed = nnx.split(make(*place), nnx.Param, ...)
    weight = np.random.default_rng(0).normal(size=(B, ONE_T, V)).astype(np.float32)

    @jax.jit
    @functools.partial(jax.grad, has_aux=True)
    def gradient(trained, source, target):
        logits = nnx.merge(graphdef, trained, fixed)(source, target)
        return (logits * weight).sum(), logits

    return functools.partial(gradient, trained)


def test_step_by_step_is_the_whole_target_at_once(place):
    model, source, target = make(*place), tokens(S, V + 2), tokens(T)
    segments = (np.arange(S) < np.array([[S], [ONE_S]])).astype(np.int32)
    expected = np.asarray(forward(model, source, target, segments, np.ones_like(target)))
    decoding, found = start(model, source, segments), []
    for t in range(T):
        logits, decoding = step(model, target[:, t : t + 1], decoding)
        found.append(logits)
    close(np.concatenate(found, 1), expected)
    # Without segments, one row of the same; of the target its beginning, which does not see what follows.
    _, short = differentiated(place)(source[[1, 1], :ONE_S], target[[1, 1], :ONE_T])
    close(short, expected[[1, 1], :ONE_T])


def test_pairs_packed_into_a_row_do_not_see_each_other(place):
    sources = np.stack([tokens(ONE_S, V + 2, seed=seed) for seed in (2, 3)], 1)
    targets = np.stack([tokens(ONE_T, seed=seed) for seed in (4, 5)], 1)
    row = lambda x, n: np.pad(x.reshape(B, -1), ((0, 0), (0, n - 2 * x.shape[2])))  # noqa: E731
    packed = [row(x, n) for x, n in ((sources, S), (targets, T))]
    number = np.array([[[1], [2]]] * B, np.int32)
    ids = [row(number + 0 * x, n) for x, n in ((sources, S), (targets, T))]
    found = np.asarray(forward(make(*place), *packed, *ids))
    for i in range(2):
        _, apart = differentiated(place)(sources[:, i], targets[:, i])
        close(found[:, i * ONE_T : (i + 1) * ONE_T], apart)


def test_every_parameter_learns(place):
    gradients, _ = differentiated(place)(tokens(ONE_S, V + 2), tokens(ONE_T))
    for path, gradient in jax.tree.leaves_with_path(gradients):
        gradient = np.asarray(gradient)
        assert np.isfinite(gradient).all()
        assert np.abs(gradient).max() > 0, jax.tree_util.keystr(path)


def test_what_is_remembered_of_a_token_is_of_all_but_padding(place):
    """An encoder sees both sides."""
    model, source = make(*place), tokens(S, V + 2)
    segments = (np.arange(S) < np.array([[S], [ONE_S]])).astype(np.int32)

    def remembered(source):
        memory = start(model, source, segments).memories["0"]
        return np.concatenate([memory.key, memory.value], -1)[0]

    whole = remembered(source)
    for changed in range(S):
        other = np.where(np.arange(S) == changed, (source + 1) % V, source)
        moves = np.abs(remembered(other) - whole).max((2, 3))
        for row, length in enumerate((S, ONE_S)):
            if changed >= length:
                assert (moves[row, :length] == 0).all()
            elif changed in (0, length - 1):
                assert (moves[row, :length] > 1e-6).all()


def encoder_config(name):
    return TransformerConfig(
        num_layers=1, features=24, num_heads=4, encodings=(name,), norm_placement="post"
    )


@pytest.mark.parametrize(
    "name",  # all others are seen in the encoder of an encoder-decoder
    [
        pytest.param(name, marks=() if name in ("shaw", "t5", "tupe") else pytest.mark.long)
        for name in NAMES
        if not sees_the_past_alone(name)
    ],
)
def test_an_encoder_sees_both_sides(name):
    config = encoder_config(name)
    model = nnx.merge(*drawn(lambda: TokenEncoder(config, vocab_size=V, rngs=nnx.Rngs(0)), config))
    x = tokens(T)
    encode = nnx.jit(lambda model, x, segments=None: model(x, segments=segments))
    whole = encode(model, x)
    assert whole.shape == (B, T, V)
    for changed in (0, T - 1):
        other = encode(model, np.where(np.arange(T) == changed, (x + 1) % V, x))
        assert (np.abs(np.asarray(other) - whole).max(-1) > 1e-6).all()
    padded = np.pad(x, ((0, 0), (0, 3)), constant_values=5)
    segments = (np.arange(T + 3) < T).astype(np.int32)[None].repeat(B, 0)
    close(encode(model, padded, segments)[:, :T], whole)


@pytest.mark.parametrize("name", list(filter(sees_the_past_alone, NAMES)))
def test_an_encoder_refuses_what_sees_the_past_alone(name):
    with pytest.raises(ValueError, match="causal"):
        Encoder(encoder_config(name), vocab_size=V, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {cross for _, _, cross in PLACES}))
def test_what_cross_attention_cannot_have_is_refused(name):
    scheme = made(name)
    with pytest.raises(ValueError, match=r"adds positions to the input|along one sequence|causal"):
        make("none", "none", name)
    assert scheme.adds_to_input() or scheme.causal_only or scheme.needs_tokens


def next_log_probabilities(model, sources, prefixes, length):
    """Of the tokens behind prefixes of one length, in rows of a greater one: what follows is not seen."""
    rows = np.full((len(prefixes), length), END, np.int32)
    for row, prefix in zip(rows, prefixes, strict=True):
        row[: len(prefix) + 1] = (BEGIN, *prefix)
    logits = np.asarray(forward(model, sources, rows))[:, len(prefixes[0])]
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@functools.cache
def every_target(seed, source, length):
    """All targets up to a length with their log probabilities."""
    found, model = {}, small_model(seed)

    def visit(prefix, log_probability):
        (log,) = next_log_probabilities(model, np.array([source]), [prefix], length + 1)
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
    stack = TransformerConfig(encodings=("rope",), **sizes)
    make = lambda: EncoderDecoder(  # noqa: E731
        encoder=stack, decoder=stack, source_vocab=4, target_vocab=4, share_embeddings=True,
        rngs=nnx.Rngs(0),
    )  # fmt: skip
    return nnx.merge(*drawn(make, stack, seed=seed, size=0.6))


def search(model, sources, *more, beams, max_length, **kw):
    """The targets that are found, of numbers that are read without a program."""
    found = beam_search(
        model, np.array(sources), *more, beams=beams, max_length=max_length,
        begin=BEGIN, end=END, **kw,
    )  # fmt: skip
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("penalty", [0.0, pytest.param(0.6, marks=pytest.mark.long), 2.0])
def test_enough_beams_find_the_best_of_all_targets(penalty):
    source, M = (2, 3, 2), 3
    log = every_target(0, source, M)
    ranked = sorted(log, key=lambda t: -log[t] / ((5 + len(t) + 1) / 6) ** penalty)
    found = search(small_model(0), [source], beams=Beams(40, penalty), max_length=M)
    for i, target in enumerate(ranked):
        assert tuple(found.tokens[0, i, : found.lengths[0, i]].tolist()) == target
        expected = log[target] / ((5 + len(target) + 1) / 6) ** penalty
        assert found.scores[0, i] == pytest.approx(float(expected), abs=1e-4)
    assert (found.tokens[0, 0, found.lengths[0, 0] :] == END).all()


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_takes_the_most_probable_token(seed):
    model, M = small_model(seed), 6
    sources = np.array([[2, 3, 2, 0], [3, 3, 0, 2]])
    found = search(model, sources, beams=Beams(1), max_length=M)
    expected = [(), ()]
    for _ in range(M):
        best = next_log_probabilities(model, sources, expected, M + 1).argmax(-1)
        expected = [(*row, int(token)) for row, token in zip(expected, best, strict=True)]
    for row, target in enumerate(expected):
        length = target.index(END) if END in target else M
        assert found.tokens[row, 0, : found.lengths[row, 0]].tolist() == list(target[:length])


def test_a_row_is_searched_as_if_alone():
    model = small_model(2)
    sources = np.array([[2, 3, 2, 0], [3, 3, 0, 2], [0, 0, 0, 3]])
    kw = {"beams": Beams(3), "max_length": 9}
    together = search(model, sources, **kw)
    for row in range(3):
        alone = search(model, sources[row : row + 1], **kw)
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_array_equal(alone.lengths[0], together.lengths[row])
    # Padding is not seen.
    padded = np.pad(sources, ((0, 0), (0, 2)), constant_values=3)
    segments = (np.arange(6) < 4).astype(np.int32)[None].repeat(3, 0)
    np.testing.assert_array_equal(search(model, padded, segments, **kw).tokens, together.tokens)


def test_targets_of_a_given_length_have_it():
    model = small_model(1)
    sources = [[2, 3, 2, 0], [3, 3, 0, 2], [0, 0, 0, 3]]
    lengths = np.array([0, 4, 2])
    found = search(model, sources, beams=Beams(2), max_length=5, lengths_B=lengths)
    assert found.lengths[:, 0].tolist() == lengths.tolist()
    for row in range(3):
        assert (found.tokens[row, 0, : lengths[row]] != END).all()


class Sure(nnx.Module):
    """Writes as many 2 as the source's first token says, then the end, which is always the second choice."""

    def apart(self):
        return self

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
    found = search(Sure(), [[8]], beams=Beams(size), max_length=12)
    assert found.lengths[0, 0] == 8
    assert (found.tokens[0, 0, :8] == 2).all()


def test_rows_of_padding_are_not_waited_for():
    kw = {"beams": Beams(1), "max_length": 12}
    assert search(Sure(), [[2], [8]], **kw).lengths[:, 0].tolist() == [2, 8]
    found = search(Sure(), [[2], [8]], np.array([[1], [0]]), **kw)
    assert found.lengths[0, 0] == 2
    assert found.scores[1, 0] < -1e29  # the search was over before it ended
