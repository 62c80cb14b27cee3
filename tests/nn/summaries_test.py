"""Flax's tools that look into a module: they wrap every public method of every class in it, and call it so."""

import jax.numpy as jnp
import pytest
from flax import nnx

from relpos import encodings
from relpos.nn import (
    Decoder,
    EncoderDecoder,
    RelativeAttention,
    SpanEncoder,
    TokenEncoder,
    TransformerConfig,
)

TOKENS = jnp.ones((1, 5), jnp.int32)
SIZES = {"num_layers": 1, "features": 12, "num_heads": 2}


def summary(module, *args):
    nnx.display(module)
    return nnx.tabulate(module, *args, console_kwargs={"force_terminal": False, "width": 200})


# Nothing, a table, what the layer brings, a walk, what layers share, what is added to the input.
QUICK = ("none", "t5", "deberta", "path", "transformer_xl", "sinusoidal")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in QUICK else pytest.mark.long) for n in encodings.names()],
)
def test_a_decoder_is_tabulated_and_works_afterwards(name):
    config = TransformerConfig(encodings=(name,), **SIZES)
    model = Decoder(config, vocab_size=7, rngs=nnx.Rngs(0))
    before = model(TOKENS)
    assert "Decoder Summary" in summary(model, TOKENS)
    assert (model(TOKENS) == before).all()
    assert (
        Decoder(config, vocab_size=7, rngs=nnx.Rngs(0))(TOKENS) == before
    ).all()  # a new one too


def test_layers_and_other_models_are_tabulated():
    layer = RelativeAttention(2, 12, encoding="t5", rngs=nnx.Rngs(0))
    assert "RelativeAttention Summary" in summary(layer, jnp.ones((1, 5, 12)))
    two_sided = TransformerConfig(encodings=("shaw",), **SIZES)
    for kind, args in ((TokenEncoder, (TOKENS,)), (SpanEncoder, (TOKENS, TOKENS, TOKENS > 0))):
        assert f"{kind.__name__} Summary" in summary(
            kind(two_sided, vocab_size=7, rngs=nnx.Rngs(0)), *args
        )
    sides = TransformerConfig(encodings=("rope",), **SIZES)
    both = EncoderDecoder(
        encoder=sides, decoder=sides, source_vocab=7, target_vocab=7, rngs=nnx.Rngs(0)
    )
    assert "EncoderDecoder Summary" in summary(both, TOKENS, TOKENS)
    afterwards = RelativeAttention(2, 12, encoding="t5", rngs=nnx.Rngs(0))
    assert (afterwards(jnp.ones((1, 5, 12))) == layer(jnp.ones((1, 5, 12)))).all()
