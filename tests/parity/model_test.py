"""Whole models of Hugging Face's transformers with an MLP as ours: Arcee and T5, logits, gradients, greedy tokens."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import ArceeConfig, ArceeForCausalLM, T5Config, T5ForConditionalGeneration

from relpos.nn import (
    Decoder,
    DecoderConfig,
    EncoderDecoder,
    EncoderDecoderConfig,
    Sampling,
    StackConfig,
    generate,
)
from tests.parity.comparing import FLOAT32, hidden, left_padded, randomised, seen_by

LAYERS, D, N, K, M, V = 3, 12, 6, 2, 20, 61
B, T = 2, 21
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))
PACKED = np.array([[1] * 5 + [2] * 9 + [3] * 7, [1] * 20 + [2]])
STOP = V  # never generated


def arcee(**how):
    """Return the model; `how` are options of `randomised`."""
    config = ArceeConfig(
        vocab_size=V, hidden_size=D, intermediate_size=M, num_hidden_layers=LAYERS,
        num_attention_heads=N, num_key_value_heads=K, tie_word_embeddings=True, rms_norm_eps=1e-6,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    return randomised(ArceeForCausalLM(config), **how)


def stacked(p, stack, *names):
    """Return the kernels of all layers, as our stacks hold them; those of several names are concatenated."""
    kernels = [[p[f"{stack}.{n}.{name}.weight"].T for name in names] for n in range(LAYERS)]
    return jnp.stack([jnp.concatenate(each, -1) for each in kernels])


def in_float64(parts):
    """Return the model of a graphdef and a state, in float64."""
    graphdef, state = parts
    return nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(float), state))


def filled(parts, p):
    """Put Arcee's parameters into ours, which multiplies embeddings by sqrt(D): here they are divided by it.

    The last norm is multiplied by it, because the output is tied to the embeddings.
    """

    of_layers = functools.partial(stacked, p, "model.layers")
    model = in_float64(parts)
    (block,) = model.stack.blocks
    block.attention.qkv.kernel[...] = of_layers(*(f"self_attn.{of}_proj" for of in "qkv"))
    block.attention.out.kernel[...] = of_layers("self_attn.o_proj")
    block.mlp_in.kernel[...] = of_layers("mlp.up_proj")
    block.mlp_out.kernel[...] = of_layers("mlp.down_proj")
    block.attention_norm.scale[...] = of_layers("input_layernorm")
    block.mlp_norm.scale[...] = of_layers("post_attention_layernorm")
    model.embed.table.embedding[...] = p["model.embed_tokens.weight"] / D**0.5
    model.norm.scale[...] = p["model.norm.weight"] * D**0.5
    return model


def decoder():
    """Return our model as graphdef and state."""
    config = DecoderConfig(
        vocab_size=V, num_layers=LAYERS, features=D, num_heads=N, num_kv_heads=K, mlp_features=M,
        encodings="rope", dtype="float64",
    )  # fmt: skip
    return nnx.split(Decoder(config, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize(
    "segments",
    [left_padded(T, 0), left_padded(T, 8), PACKED],
    ids=["whole rows", "left padding", "packed"],
)
def test_arcee(agree, segments):
    module = arcee()
    starts = np.array([[np.flatnonzero(row == id)[0] for id in row] for row in segments])
    parts = decoder()

    def theirs():
        return module(
            torch.tensor(TOKENS), attention_mask=hidden(seen_by(segments, causal=True)),
            position_ids=torch.tensor(np.arange(T) - starts), use_cache=False,
        ).logits  # fmt: skip

    def ours(p):
        return filled(parts, p)(jnp.asarray(TOKENS), segments=segments)

    agree(theirs, ours, {}, module=module, rows=segments != 0, tolerance=FLOAT32)


def test_greedy_tokens_of_arcee():
    """Two prompts of different lengths; the other model pads the shorter one on the left."""
    # Not float64: its mask would overflow in its float32 softmax, and padding would become NaN.
    module, lengths, more = arcee(std=1.0, dtype=torch.float32), np.array([6, 11]), 20
    prompts = [TOKENS[row, :length] for row, length in enumerate(lengths)]
    before = [np.concatenate([np.zeros(11 - len(row), int), row]) for row in prompts]
    behind = [np.concatenate([row, np.zeros(11 - len(row), int)]) for row in prompts]
    theirs = module.generate(
        torch.tensor(np.stack(before)),
        attention_mask=torch.tensor([[0] * 5 + [1] * 6, [1] * 11]),
        max_new_tokens=more, do_sample=False,
    )[:, 11:]  # fmt: skip
    p = {name: jnp.asarray(x.detach().numpy()) for name, x in module.named_parameters()}
    ours, counts = generate(
        filled(decoder(), p), jnp.asarray(np.stack(behind)), jnp.asarray(lengths),
        max_new_tokens=more, stop=STOP, sampling=Sampling(temperature=0), key=jax.random.key(0),
    )  # fmt: skip
    np.testing.assert_array_equal(ours, theirs)
    assert counts.tolist() == [more, more]
    assert len(np.unique(ours)) > 5, "tokens that repeat say little"


def t5_filled(parts, p):
    """Put T5's parameters into ours, embeddings divided as Arcee's are; the output is divided by sqrt(D) there too."""
    model = in_float64(parts)
    for name in ("encoder", "decoder"):
        of_layers = functools.partial(stacked, p, f"{name}.block")
        attention, mlp = "layer.0.SelfAttention", "layer.1" if name == "encoder" else "layer.2"
        (block,) = getattr(model, name).blocks
        block.attention.qkv.kernel[...] = of_layers(*(f"{attention}.{of}" for of in "qkv"))
        block.attention.out.kernel[...] = of_layers(f"{attention}.o")
        block.attention_norm.scale[...] = of_layers("layer.0.layer_norm")
        block.mlp_in.kernel[...] = of_layers(f"{mlp}.DenseReluDense.wi")
        block.mlp_out.kernel[...] = of_layers(f"{mlp}.DenseReluDense.wo")
        block.mlp_norm.scale[...] = of_layers(f"{mlp}.layer_norm")
        table = p[f"{name}.block.0.{attention}.relative_attention_bias.weight"].T
        block.attention.encoding.table[...] = table
        getattr(model, f"{name}_norm").scale[...] = p[f"{name}.final_layer_norm.weight"]
        if name == "decoder":
            cross = "layer.1.EncDecAttention"
            block.cross.query.kernel[...] = of_layers(f"{cross}.q")
            block.cross.key_value.kernel[...] = of_layers(f"{cross}.k", f"{cross}.v")
            block.cross.out.kernel[...] = of_layers(f"{cross}.o")
            block.cross_norm.scale[...] = of_layers("layer.1.layer_norm")
    model.target.table.embedding[...] = p["shared.weight"] / D**0.5
    return model


@pytest.mark.parametrize("padding", [0, 8], ids=["whole rows", "padding"])
def test_t5(agree, padding):
    config = T5Config(
        vocab_size=V, d_model=D, d_kv=3, d_ff=M, num_layers=LAYERS, num_heads=N,
        relative_attention_num_buckets=12, relative_attention_max_distance=18,
        feed_forward_proj="relu2", dropout_rate=0.0, layer_norm_epsilon=1e-6,
    )  # fmt: skip
    module = randomised(T5ForConditionalGeneration(config))
    stack = StackConfig(
        num_layers=LAYERS, features=D, num_heads=N, head_dim=3, mlp_features=M, encodings="t5",
        scale=1.0, dtype="float64",
    )  # fmt: skip
    config = EncoderDecoderConfig(V, V, stack, stack, share_embeddings=True)
    options = {"t5": {"num_buckets": 12, "max_distance": 18}}
    parts = nnx.split(EncoderDecoder(config, encoding_options=options, rngs=nnx.Rngs(0)))
    segments = left_padded(T, padding)[:, ::-1]
    target = np.random.default_rng(1).integers(0, V, (B, 13))

    def theirs():
        return module(
            torch.tensor(TOKENS), attention_mask=torch.tensor(segments.copy()),
            decoder_input_ids=torch.tensor(target), use_cache=False,
        ).logits  # fmt: skip

    def ours(p):
        return t5_filled(parts, p)(
            jnp.asarray(TOKENS), jnp.asarray(target), source_segments=segments,
            target_segments=np.ones((B, 13), int),
        )  # fmt: skip

    agree(theirs, ours, {}, module=module, tolerance=FLOAT32)
