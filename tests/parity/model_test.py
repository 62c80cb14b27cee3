"""Arcee of Hugging Face's transformers, whose MLP is that of ours: logits, all gradients, greedy tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import ArceeConfig, ArceeForCausalLM

from relpos.nn import Decoder, DecoderConfig, Sampling, generate
from tests.parity.comparing import FLOAT32, hidden, left_padded, randomised, seen_by

LAYERS, D, N, K, M, V = 3, 12, 6, 2, 20, 61
B, T = 2, 21
TOKENS = np.random.default_rng(0).integers(0, V, (B, T))
PACKED = np.array([[1] * 5 + [2] * 9 + [3] * 7, [1] * 20 + [2]])
STOP = V  # is never written


def arcee(**how):
    """Return the model; how: its parameters are drawn."""
    config = ArceeConfig(
        vocab_size=V, hidden_size=D, intermediate_size=M, num_hidden_layers=LAYERS,
        num_attention_heads=N, num_key_value_heads=K, tie_word_embeddings=True, rms_norm_eps=1e-6,
        max_position_embeddings=64, bos_token_id=None, eos_token_id=None, pad_token_id=None,
        attn_implementation="eager",
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    return randomised(ArceeForCausalLM(config), **how)


def filled(parts, p):
    """Put Arcee's parameters into ours, which multiplies embeddings by sqrt(D): they are divided by it here.

    The last norm makes up for the output, which is tied.
    """

    def of_layers(*names):
        kernels = [
            [p[f"model.layers.{layer}.{name}.weight"].T for name in names]
            for layer in range(LAYERS)
        ]
        return jnp.stack([jnp.concatenate(each, -1) for each in kernels])

    graphdef, state = parts
    model = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(float), state))
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
    """Return ours in two parts."""
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
def test_logits(agree, segments):
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


def test_greedy_tokens():
    """Of prompts of two lengths, the shorter one padded on the left there."""
    # In float64 its mask, made infinite by its softmax in float32, leaves nothing but NaN of padding.
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
