"""Whole decoders of Hugging Face's transformers with random weights: logits, gradients, greedy tokens.

Arcee has our default MLP; Llama, Qwen3 and GPT-NeoX have layers of other kinds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import (
    ArceeConfig,
    ArceeForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from relpos.nn import Decoder, Sampling, TransformerConfig, generate
from tests.parity.comparing import FLOAT32, hidden, left_padded, randomised, seen_by
from tests.parity.filling import Layers, in_float64

LAYERS, D, N, K, M, V = 3, 12, 6, 2, 20, 61
B, T = 2, 21
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))
PACKED = np.array([[1] * 5 + [2] * 9 + [3] * 7, [1] * 20 + [2]])
STOP = V  # never generated
SIZES = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": M, "num_hidden_layers": LAYERS,
    "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    "attn_implementation": "eager",
}  # fmt: skip
HEADS = {"num_attention_heads": N, "num_key_value_heads": K}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}


def arcee(**how):
    """Return the model; `how` are options of `randomised`."""
    config = ArceeConfig(
        tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=ROPE, **SIZES, **HEADS
    )
    return randomised(ArceeForCausalLM(config), **how)


def llama():
    config = LlamaConfig(
        tie_word_embeddings=False, rms_norm_eps=1e-3, rope_parameters=ROPE, **SIZES, **HEADS
    )
    return randomised(LlamaForCausalLM(config))


def qwen3():
    config = Qwen3Config(
        tie_word_embeddings=True, rms_norm_eps=1e-3, rope_parameters=ROPE, head_dim=4, **SIZES, **HEADS
    )  # fmt: skip
    return randomised(Qwen3ForCausalLM(config))


def gpt_neox():
    rope = ROPE | {"partial_rotary_factor": 0.5}
    config = GPTNeoXConfig(num_attention_heads=3, rope_parameters=rope, **SIZES)
    return randomised(GPTNeoXForCausalLM(config))


def filled(parts, p):
    """Put the parameters of a Llama, or of a model with its names, into ours."""
    model, of = in_float64(parts), Layers(p, "model.layers", LAYERS)
    (block,) = model.stack.blocks
    block.attention.qkv.kernel[...] = of.kernel(*(f"self_attn.{name}_proj" for name in "qkv"))
    block.attention.out.kernel[...] = of.kernel("self_attn.o_proj")
    if model.config.qk_norm:
        block.attention.q_norm.scale[...] = of("self_attn.q_norm.weight")
        block.attention.k_norm.scale[...] = of("self_attn.k_norm.weight")
    gate = ("mlp.gate_proj",) if model.config.mlp == "swiglu" else ()
    block.mlp_in.kernel[...] = of.kernel(*gate, "mlp.up_proj")
    block.mlp_out.kernel[...] = of.kernel("mlp.down_proj")
    block.attention_norm.scale[...] = of("input_layernorm.weight")
    block.mlp_norm.scale[...] = of("post_attention_layernorm.weight")
    with_embeddings(model, p, "model.embed_tokens.weight", "lm_head.weight")
    # Logits of tied embeddings are as much smaller as these are.
    rate = D**0.5 if model.config.tied_embeddings else 1
    model.norm.scale[...] = p["model.norm.weight"] * rate
    return model


def with_embeddings(model, p, embedding, logits):
    """Ours multiplies embeddings by sqrt(D): here they are divided by it."""
    model.embed.table.embedding[...] = p[embedding] / D**0.5
    if not model.config.tied_embeddings:
        model.embed.of_logits.embedding[...] = p[logits]


def neox_filled(parts, p):
    """Put GPT-NeoX's parameters into ours: there each head has its query, key and value side by side."""
    model, of = in_float64(parts), Layers(p, "gpt_neox.layers", LAYERS)
    (block,) = model.stack.blocks

    def by_kind(x):
        return x.reshape(3, 3, D // 3, -1).swapaxes(0, 1).reshape(x.shape)

    attention, names = block.attention, {
        block.attention_norm: "input_layernorm", block.mlp_norm: "post_attention_layernorm",
    }  # fmt: skip
    attention.qkv.kernel[...] = of("attention.query_key_value.weight", lambda x: by_kind(x).T)
    attention.qkv.bias[...] = of("attention.query_key_value.bias", by_kind)
    for norm, name in names.items():
        norm.scale[...], norm.bias[...] = of(f"{name}.weight"), of(f"{name}.bias")
    for linear, name in (
        (attention.out, "attention.dense"),
        (block.mlp_in, "mlp.dense_h_to_4h"),
        (block.mlp_out, "mlp.dense_4h_to_h"),
    ):
        linear.kernel[...], linear.bias[...] = of.kernel(name), of(f"{name}.bias")
    model.norm.scale[...] = p["gpt_neox.final_layer_norm.weight"]
    model.norm.bias[...] = p["gpt_neox.final_layer_norm.bias"]
    with_embeddings(model, p, "gpt_neox.embed_in.weight", "lm_head.weight")
    return model


def decoder(**options):
    """Return our model as graphdef and state."""
    sizes = {"num_layers": LAYERS, "features": D, "mlp_features": M, "dtype": "float64"}
    sizes |= {"num_heads": N, "num_kv_heads": K} | options
    return nnx.split(Decoder(TransformerConfig(**sizes), vocab_size=V, rngs=nnx.Rngs(0)))


# A foreign model, how its parameters fill ours, and the options of ours.
MODELS = {
    "arcee": (arcee, filled, {}),
    "llama": (llama, filled, {"mlp": "swiglu", "tied_embeddings": False, "norm_epsilon": 1e-3}),
    "qwen3": (qwen3, filled, {"mlp": "swiglu", "qk_norm": True, "head_dim": 4, "norm_epsilon": 1e-3}),
    "gpt_neox": (gpt_neox, neox_filled, {
        "num_heads": 3, "num_kv_heads": None, "encodings": "rope(fraction=0.5)", "norm": "layer",
        "norm_epsilon": 1e-5, "mlp": "gelu", "parallel": True, "bias": "qkv, out, mlp",
        "tied_embeddings": False,
    }),
}  # fmt: skip


@pytest.mark.parametrize(
    "segments",
    [left_padded(T, 0), left_padded(T, 8), PACKED],
    ids=["whole rows", "left padding", "packed"],
)
@pytest.mark.parametrize("name", MODELS)
def test_decoders(agree, name, segments):
    make, filled, options = MODELS[name]
    module, parts = make(), decoder(**options)
    starts = np.array([[np.flatnonzero(row == id)[0] for id in row] for row in segments])

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
