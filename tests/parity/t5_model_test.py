"""Whole T5s of Hugging Face's transformers with random weights: logits and gradients."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import T5Config, T5ForConditionalGeneration

from relpos.nn import EncoderDecoder, TransformerConfig
from tests.parity.comparing import FLOAT32, left_padded, randomised
from tests.parity.filling import Layers, in_float64

LAYERS, D, N, M, V = 3, 12, 6, 20, 61
B, S, T = 2, 21, 13
SOURCE = np.random.default_rng(0).integers(0, V, (B, S))
TARGET = np.random.default_rng(1).integers(0, V, (B, T))


def filled(parts, p, mlp):
    """Put T5's parameters into ours, which multiplies embeddings by sqrt(D): here they are divided by it.

    Tied logits are thereby divided by it too, as the original T5 divides them.
    """
    model = in_float64(parts)
    for name in ("encoder", "decoder"):
        of = Layers(p, f"{name}.block", LAYERS)
        attention, last = "layer.0.SelfAttention", "layer.1" if name == "encoder" else "layer.2"
        (block,) = getattr(model, name).blocks
        block.attention.qkv.kernel[...] = of.kernel(*(f"{attention}.{each}" for each in "qkv"))
        block.attention.out.kernel[...] = of.kernel(f"{attention}.o")
        block.attention_norm.scale[...] = of("layer.0.layer_norm.weight")
        block.mlp_in.kernel[...] = of.kernel(*(f"{last}.DenseReluDense.{each}" for each in mlp))
        block.mlp_out.kernel[...] = of.kernel(f"{last}.DenseReluDense.wo")
        block.mlp_norm.scale[...] = of(f"{last}.layer_norm.weight")
        table = p[f"{name}.block.0.{attention}.relative_attention_bias.weight"].T
        block.attention.encoding.table[...] = table
        getattr(model, f"{name}_norm").scale[...] = p[f"{name}.final_layer_norm.weight"]
        if name == "decoder":
            cross = "layer.1.EncDecAttention"
            block.cross.query.kernel[...] = of.kernel(f"{cross}.q")
            block.cross.key_value.kernel[...] = of.kernel(f"{cross}.k", f"{cross}.v")
            block.cross.out.kernel[...] = of.kernel(f"{cross}.o")
            block.cross_norm.scale[...] = of("layer.1.layer_norm.weight")
    model.target.table.embedding[...] = p["shared.weight"] / D**0.5
    if model.target.of_logits is not None:
        model.target.of_logits.embedding[...] = p["lm_head.weight"]
    return model


# The names of a foreign MLP's first products, the option of ours, and whether logits have a table of their own.
KINDS = {
    "relu2": (("wi",), "relu2", True),
    "relu": (("wi",), "relu", True),  # the original
    "gated-gelu": (("wi_0", "wi_1"), "geglu_tanh", False),  # v1.1
}


@pytest.mark.parametrize("padding", [0, 8], ids=["whole rows", "padding"])
@pytest.mark.parametrize("kind", KINDS)
def test_t5(agree, kind, padding):
    names, mlp, tied = KINDS[kind]
    config = T5Config(
        vocab_size=V, d_model=D, d_kv=3, d_ff=M, num_layers=LAYERS, num_heads=N,
        relative_attention_num_buckets=12, relative_attention_max_distance=18,
        feed_forward_proj=kind, tie_word_embeddings=tied, dropout_rate=0.0,
        layer_norm_epsilon=1e-6,
    )  # fmt: skip
    module = T5ForConditionalGeneration(config)
    if not tied:  # transformers 5 ties them all the same; the weights of v1.1 are two tables
        module.lm_head.weight = torch.nn.Parameter(module.lm_head.weight.clone())
    module = randomised(module)
    config = TransformerConfig(
        num_layers=LAYERS, features=D, num_heads=N, head_dim=3, mlp_features=M, encodings="t5",
        scale=1.0, mlp=mlp, tied_embeddings=tied, dtype="float64",
    )  # fmt: skip
    model = EncoderDecoder(
        encoder=config, decoder=config, source_vocab=V, target_vocab=V, share_embeddings=True,
        encoding_options={"t5": {"num_buckets": 12, "max_distance": 18}}, rngs=nnx.Rngs(0),
    )  # fmt: skip
    parts, segments = nnx.split(model), left_padded(S, padding)[:, ::-1]

    def theirs():
        return module(
            torch.tensor(SOURCE), attention_mask=torch.tensor(segments.copy()),
            decoder_input_ids=torch.tensor(TARGET), use_cache=False,
        ).logits  # fmt: skip

    def ours(p):
        return filled(parts, p, names)(
            jnp.asarray(SOURCE), jnp.asarray(TARGET), source_segments=segments,
            target_segments=np.ones((B, T), int),
        )  # fmt: skip

    agree(theirs, ours, {}, module=module, tolerance=FLOAT32)
