"""Layers take turns: of encodings, windows, scales and softcaps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos.nn import Decoder, EncoderDecoder, TransformerConfig
from relpos.nn.stack import Stack
from relpos.positions import Window

SIZES = {"features": 12, "num_heads": 2}
NONE, WIDE = Window(), Window(128, 128)


def config(num_layers=6, **options):
    return TransformerConfig(num_layers=num_layers, **SIZES, **options)


@pytest.mark.parametrize(
    ("given", "windows"),
    [
        (None, (NONE,)),
        (128, (WIDE,)),
        (Window(4, 2), (Window(4, 2),)),
        ((None, 128, 128), (NONE, WIDE, WIDE)),
        ([(4, 2), None], (Window(4, 2), NONE)),
        (((4, None),), (Window(4, None),)),
        ("128", (WIDE,)),
        ("none, 128*2", (NONE, WIDE, WIDE)),
        ("4:2, None:3 * 2", (Window(4, 2), Window(None, 3), Window(None, 3))),
    ],
)
def test_windows_of_layers_are_read_from_values_and_from_text(given, windows):
    found = [turn.window for turn in config(window=given).pattern]
    assert tuple(found) == windows


def test_what_has_been_read_is_read_again_as_the_same():
    made = config(window="none, 4:2*2", scale=(1.0, None), softcap="50")
    assert TransformerConfig(**vars(made)) == made
    assert [turn.scale for turn in made.pattern] == 3 * [1.0, None]
    assert {turn.softcap for turn in made.pattern} == {50.0}


def test_a_group_is_as_long_as_all_turns_come_together():
    made = config(encodings="rope(base=160000.0), rope*2", window=(None, 128, 128), scale=(None, 1))
    assert len(made.pattern) == 6
    assert [turn.encoding for turn in made.pattern] == 2 * ["rope(base=160000.0)", "rope", "rope"]
    assert [turn.window.past for turn in made.pattern] == 2 * [None, 128, 128]
    assert [turn.scale for turn in made.pattern] == 3 * [None, 1.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": (4, None), "encodings": "rope*2,none"},
         r"4 layers cannot take turns of 3 \(encoding\), 2 \(window\): .* a multiple of 6"),
        ({"window": "4,,2"}, "window must be an integer or a pair"),
        ({"window": "4:2:1"}, r"a pair \(past, future\), got \(4, 2, 1\)"),
        ({"window": "4*0"}, "followed by a number of layers"),
        ({"window": ()}, "window is empty"),
        ({"scale": "small"}, "scale must be a finite number or None, got 'small'"),
        ({"scale": float("inf")}, "scale must be a finite number"),
        ({"softcap": (50.0, 0)}, "softcap must be a positive number or None, got 0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        config(4, **options)


def test_a_stack_is_its_layers_one_after_another():
    """ModernBERT's two bases, Gemma 2's windows and caps, and scales: each layer alone has what its turn says."""
    options = {
        "encodings": ("rope(base=160000.0)", "rope(base=10.0)", "rope(base=10.0)"),
        "window": (None, Window(4, 2), 3),
        "scale": (1.0,),
        "softcap": (2.0, None, 1.0),
    }
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 11, 12)))
        whole = Stack(config(dtype="float64", **options), causal=False, rngs=nnx.Rngs(0))
        found, expected = whole(x), x
        for layer in range(6):
            own = {name: turns[layer % len(turns)] for name, turns in options.items()}
            own = {name: (value,) for name, value in own.items()}
            alone = Stack(config(1, dtype="float64", **own), causal=False, rngs=nnx.Rngs(1))
            state = nnx.state(whole.blocks[layer % 3])
            of_layer = jax.tree.map(lambda x, at=layer // 3: x[at : at + 1], state)
            nnx.update(alone.blocks[0], of_layer)
            expected = alone(expected)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_layers_of_several_windows_decode_as_they_run():
    """Each turn's cache is as long as its own window lets it be."""
    sizes = TransformerConfig(
        num_layers=3, encodings="rope(base=160000.0),rope*2",
        window=(None, 3, Window(4, 2)), scale=1.0, softcap=(5.0, None, None), **SIZES,
    )  # fmt: skip
    model = Decoder(sizes, vocab_size=7, rngs=nnx.Rngs(0))
    x = jax.random.randint(jax.random.key(0), (2, 12), 0, 7)
    run, decode = nnx.jit(lambda model, x: model(x)), nnx.jit(lambda model, *x: model.decode(*x))
    caches, found = model.init_caches(2, 12), []
    assert [cache.capacity for cache in caches] == [12, 3, 4]
    for part in (x[:, :5], x[:, 5:6], x[:, 6:7], x[:, 7:]):
        out, caches = decode(model, part, caches)
        found.append(out)
    np.testing.assert_allclose(np.concatenate(found, 1), run(model, x), atol=1e-5)


def test_layers_with_other_windows_share_what_is_marked():
    stack = Stack(config(encodings="t5", window=(4, None)), causal=True, rngs=nnx.Rngs(0))
    tables = [block.attention.encoding.table for block in stack.blocks]
    assert len(tables) == 2
    assert tables[0] is tables[1]


def test_cross_attention_has_the_scale_of_its_layer():
    sizes = config(2, scale=(1.0, None), softcap=3.0)
    model = EncoderDecoder(
        encoder=sizes, decoder=sizes, source_vocab=7, target_vocab=7, rngs=nnx.Rngs(0)
    )
    crosses = [block.cross for block in model.decoder.blocks]
    assert [(cross.scale, cross.softcap) for cross in crosses] == [(1.0, 3.0), (None, 3.0)]
    x = jnp.arange(5)[None]
    found = model(x, x)
    crosses[0].scale = 0.1
    assert jnp.abs(model(x, x) - found).max() > 1e-5
