"""Segments of a text, one after another, each with what the layers read before: Transformer-XL's recurrence."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings, linen, places
from relpos.nn import Decoder, Earlier, RelativeAttention, TransformerConfig
from relpos.nn.stack import Stack
from relpos.positions import Window

B, T, D, V = 2, 14, 12, 7
HALF = T // 2
RELATIVE = [name for name in encodings.names() if not encodings.scheme(name).adds_to_input()]
QUICK = ("transformer_xl", "rope", "t5", "fox")
NAMES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in RELATIVE]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_state(module):
    """No parameter stays zero: what is not wired up must show."""
    random = np.random.default_rng(0)
    state = nnx.state(module, nnx.Param)
    nnx.update(module, jax.tree.map(lambda x: x + 0.3 * random.normal(size=x.shape), state))
    return module


def make(encoding, **options):
    sizes = {"num_layers": 2, "features": D, "num_heads": 2, "dtype": "float64"} | options
    config = TransformerConfig(encodings=encoding, **sizes)
    return random_state(Decoder(config, vocab_size=V, rngs=nnx.Rngs(0)))


TOKENS = np.random.default_rng(1).integers(0, V, (B, T))


@nnx.jit
def run(model, tokens_BT, segments=None, earlier=None, embed_positions=None):
    """What logits are made of, in float64, which logits are not."""
    x_BTD, placed = model.embed(tokens_BT), places.Placed(embed_positions=embed_positions)
    if earlier is None:
        return model.stack(x_BTD, placed, segments=segments)
    return model.stack.read_on(x_BTD, earlier, embed_positions=embed_positions, segments=segments)


def in_pieces(model, x, sizes, length, segments=None):
    """The output for a text that is read in pieces, and what is left for a next one."""
    earlier, found, at = model.init_earlier(len(x), length), [], 0
    for size in sizes:
        ids = None if segments is None else segments[:, at : at + size]
        out, earlier = run(model, x[:, at : at + size], ids, earlier)
        found.append(out)
        at += size
    return np.concatenate(found, 1), earlier


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_two_halves_with_memory_are_the_whole(name):
    """Hidden states of a causal model are the same: as one pass, where the memory holds all that came before."""
    model = make(name)
    found, earlier = in_pieces(model, TOKENS, (HALF, HALF), HALF)
    close(found, run(model, TOKENS))
    # The last tokens of the input of the first layer.
    embedded = model.embed(jnp.asarray(TOKENS[:, HALF:]))
    np.testing.assert_array_equal(earlier[0].inputs[0], embedded)


def test_layers_that_take_turns_have_a_memory_each():
    model = make(
        "rope,t5", num_layers=4, window=(Window(5, 2), None), norm_placement="post", num_kv_heads=1
    )
    found, earlier = in_pieces(model, TOKENS, (5, 5, 4), 10)
    close(found, run(model, TOKENS))
    assert [each.inputs.shape for each in earlier] == 2 * [(2, B, 10, D)]


def test_a_decoder_has_the_logits_of_the_whole():
    model = make("rope")
    read_on = nnx.jit(lambda model, *x: model.read_on(*x))
    first, earlier = read_on(model, TOKENS[:, :HALF], model.init_earlier(B, HALF))
    second, _ = read_on(model, TOKENS[:, HALF:], earlier)
    whole = nnx.jit(lambda model, x: model(x))(model, TOKENS)
    np.testing.assert_allclose(np.concatenate([first, second], 1), whole, rtol=1e-6, atol=1e-6)


def stack(name):
    config = TransformerConfig(
        num_layers=1, features=D, num_heads=2, encodings=name, dtype="float64"
    )
    return random_state(Stack(config, causal=True, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_one_row_whose_beginning_is_constant(name):
    """To all parameters, the norm's before keys and values too, and to the input; none to what is earlier."""
    graphdef, state = nnx.split(stack(name))
    random = np.random.default_rng(3)
    before, x, weight = (jnp.asarray(random.normal(size=(B, HALF, D))) for _ in range(3))

    def with_memory(state, before, x):
        earlier = Earlier(before[None], jnp.ones((1, B, HALF), jnp.int32))
        return (nnx.merge(graphdef, state).read_on(x, (earlier,))[0] * weight).sum()

    def as_one_row(state, before, x):
        row = jnp.concatenate([jax.lax.stop_gradient(before), x], 1)
        return (nnx.merge(graphdef, state)(row)[:, HALF:] * weight).sum()

    found, expected = (
        jax.jit(jax.value_and_grad(loss, (0, 1, 2), allow_int=True))(state, before, x)
        for loss in (with_memory, as_one_row)
    )
    for a, b in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        if a.dtype == float:
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * max(1, np.abs(b).max()))
    assert not np.asarray(found[1][1]).any()
    # It is read all the same.
    assert abs(as_one_row(state, -before, x) - expected[0]) > 1e-3


def test_rows_have_as_many_earlier_tokens_as_they_had():
    """Behind a short row padding stands, which never enters; its queries count on from its last token."""
    model, short = make("fire"), 4
    segments = np.ones((B, T), np.int32)
    segments[1, short:HALF] = 0
    found, earlier = in_pieces(model, TOKENS, (HALF, HALF), HALF + 2, segments)
    close(found[0], run(model, TOKENS)[0])
    alone = np.concatenate([TOKENS[1:, :short], TOKENS[1:, HALF:]], 1)
    expected = run(model, np.pad(alone, ((0, 1), (0, T - alone.shape[1]))))[0]
    close(found[1, HALF:], expected[short : short + HALF])
    np.testing.assert_array_equal(earlier[0].segments[0], np.ones((B, HALF + 2)))


def test_a_document_goes_on_under_its_id():
    model = make("fox")
    segments = np.array([[1] * 4 + [2] * 6 + [3] * 4, [5] * 3 + [6] * 11], np.int32)
    found, _ = in_pieces(model, TOKENS, (HALF, HALF), HALF, segments)
    close(found, run(model, TOKENS, segments))


def test_the_last_tokens_are_kept_side_by_side():
    inputs = jnp.arange(20.0).reshape(2, 5, 2)
    before = Earlier.of(-inputs[:, :3], np.array([[0, 0, 7], [7, 7, 7]]))
    found = before.then(inputs, np.array([[0, 8, 0, 8, 0], [0, 0, 0, 0, 8]]))
    assert found.segments.tolist() == [[7, 8, 8], [7, 7, 8]]
    assert found.inputs[:, :, 0].tolist() == [[-4, 2, 6], [-12, -14, 18]]


def test_a_layer_takes_an_array_to_which_no_gradient_goes():
    x = jnp.asarray(np.random.default_rng(3).normal(size=(B, T, D)))
    layer = RelativeAttention(2, D, encoding="t5", rngs=nnx.Rngs(0), dtype=float)
    before, now = x[:, :HALF], x[:, HALF:]
    close(layer.read_on(now, before), layer(x)[:, HALF:])
    gradient = jax.grad(lambda before: layer.read_on(now, before).sum())(before)
    assert not gradient.any()
    shell = linen.RelativeAttention(2, "t5", options={"dtype": float})
    parameters = shell.init(jax.random.key(0), x)
    found = shell.apply(parameters, now, before, method="read_on")
    close(found, shell.apply(parameters, x)[:, HALF:])


def test_both_sides_of_what_is_read_see_what_is_earlier():
    """A layer that is not causal: only the tokens that are read ask."""
    x = jnp.asarray(np.random.default_rng(3).normal(size=(B, T, D)))
    layer = RelativeAttention(2, D, encoding="shaw", causal=False, rngs=nnx.Rngs(0), dtype=float)
    close(layer.read_on(x[:, 5:], x[:, :5]), layer(x)[:, 5:])


def test_what_adds_to_the_input_wants_places_that_count_on():
    model = make("sinusoidal")
    earlier = model.init_earlier(B, HALF)
    with pytest.raises(
        ValueError, match=r"Sinusoidal adds positions to the input.*embed_positions"
    ):
        model.read_on(TOKENS[:, :HALF], earlier)
    found = []
    for piece in (np.arange(HALF), np.arange(HALF, T)):
        out, earlier = run(model, TOKENS[:, piece], None, earlier, piece)
        found.append(out)
    close(np.concatenate(found, 1), run(model, TOKENS))


def test_what_does_not_go_with_earlier_tokens_is_refused():
    model = make("rope")
    earlier = model.init_earlier(B, HALF)
    half = jnp.asarray(TOKENS[:, :HALF])
    refused = functools.partial(pytest.raises, ValueError)
    with refused(match="of 2 blocks of layers, this stack has 1"):
        model.read_on(half, 2 * earlier)
    with refused(match=r"earlier inputs must be \[B, M, D\] .* got \[3, 7, 12\]"):
        model.read_on(half, model.init_earlier(3, HALF))
    with refused(match="0 tokens cannot be"):
        model.init_earlier(B, 0)
    layer = RelativeAttention(2, D, rngs=nnx.Rngs(0))
    with refused(match=r"the segments of earlier inputs must be \[2, 3\], got \[2, 4\]"):
        layer.read_on(jnp.ones((2, 5, D)), Earlier.of(jnp.ones((2, 3, D)), jnp.ones((2, 4))))
    drawn = Decoder(
        model.config, vocab_size=V, places=places.create("randomized"), rngs=nnx.Rngs(0)
    )
    with refused(match="a cache or an earlier segment does not hold them"):
        drawn.read_on(half, earlier)
