"""Rotary layers of Hugging Face's transformers whose structure differs from Llama's."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.deepseek_v3 import modeling_deepseek_v3 as deepseek_v3
from transformers.models.falcon import modeling_falcon as falcon
from transformers.models.gemma3 import modeling_gemma3 as gemma3
from transformers.models.gemma4 import modeling_gemma4 as gemma4
from transformers.models.gpt_neox import modeling_gpt_neox as gpt_neox
from transformers.models.gpt_oss import modeling_gpt_oss as gpt_oss
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.modernbert import modeling_modernbert as modernbert
from transformers.models.roformer import modeling_roformer as roformer

from tests.parity.comparing import (
    FLOAT32,
    attend,
    encoding_of,
    heads,
    hidden,
    left_padded,
    linear,
    random,
    randomised,
    rms_norm,
    seen_by,
)
from tests.parity.rotary import (
    CAUSAL,
    ORDER,
    POSITIONS,
    WHOLE,
    B,
    D,
    H,
    K,
    N,
    T,
    assert_layers_agree,
    config_of,
    grouped,
)


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_gpt_neox(agree, fraction):
    config = transformers.GPTNeoXConfig(
        hidden_size=D, num_attention_heads=N, num_hidden_layers=1,
        rope_parameters={
            "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": fraction,
        },
    )  # fmt: skip
    module = randomised(gpt_neox.GPTNeoXAttention(config, layer_idx=0))
    angles = gpt_neox.GPTNeoXRotaryEmbedding(config)

    def theirs(x):
        turns = angles(x, torch.tensor(POSITIONS))
        return module(x, hidden(CAUSAL), position_embeddings=turns)[0]

    assert_layers_agree(
        agree, module, theirs,
        lambda p, x: jnp.split(heads(linear(p, "query_key_value", x), N), 3, -1),
        lambda p: encoding_of("rope", N, H, fraction=fraction), out="dense",
    )  # fmt: skip


@pytest.mark.parametrize("turned", [2, 4, 8])
def test_gpt_j(agree, turned):
    config = transformers.GPTJConfig(n_embd=D, n_head=N, n_layer=1, rotary_dim=turned)
    module = randomised(gptj.GPTJAttention(config, layer_idx=0))
    angles = gptj.GPTJRotaryEmbedding(config)

    def theirs(x):
        return module(x, angles(x, torch.tensor(POSITIONS)), hidden(CAUSAL))[0]

    assert_layers_agree(
        agree, module, theirs,
        lambda p, x: [heads(linear(p, f"{of}_proj", x), N) for of in "qkv"],
        lambda p: encoding_of("rope", N, H, fraction=turned / H, layout="interleaved"), out="out_proj",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("new", "multi_query", "key_heads"), [(True, True, 2), (False, True, 1), (False, False, N)]
)
def test_falcon(agree, new, multi_query, key_heads):
    config = transformers.FalconConfig(
        hidden_size=D, num_attention_heads=N, num_kv_heads=key_heads, num_hidden_layers=1, bias=True,
        new_decoder_architecture=new, multi_query=multi_query, alibi=False,
    )  # fmt: skip
    module = randomised(falcon.FalconAttention(config, layer_idx=0))
    angles = falcon.FalconRotaryEmbedding(config)

    def theirs(x):
        turns = angles(x, torch.tensor(POSITIONS))
        return module(x, None, hidden(CAUSAL), position_embeddings=turns)[0]

    def split(p, x):
        """Each key head follows its queries."""
        groups = linear(p, "query_key_value", x).reshape(B, T, key_heads, -1, H)
        return groups[..., :-2, :].reshape(B, T, N, H), groups[..., -2, :], groups[..., -1, :]

    rope = lambda p: encoding_of("rope", N, H, key_heads=key_heads)  # noqa: E731
    assert_layers_agree(agree, module, theirs, split, rope, out="dense")


@pytest.mark.parametrize("window", [None, 5])
def test_modernbert(agree, window):
    """A global layer and one with a two-sided window, each with a base of its own."""
    kinds = ["full_attention", "sliding_attention"]
    config = transformers.ModernBertConfig(
        hidden_size=D, num_attention_heads=N, num_hidden_layers=2, layer_types=kinds,
        attention_bias=True,
    )  # fmt: skip
    index = 0 if window is None else 1
    module = randomised(modernbert.ModernBertAttention(config, layer_idx=index))
    angles = modernbert.ModernBertRotaryEmbedding(config)

    def theirs(x):
        turns = angles(x, torch.tensor(POSITIONS), kinds[index])
        mask = hidden(seen_by(WHOLE, causal=False, window=window))
        return module(x, position_embeddings=turns, attention_mask=mask)[0]

    def split(p, x):
        q, k, v = jnp.moveaxis(linear(p, "Wqkv", x).reshape(B, T, 3, N, H), 2, 0)
        return q, k, v

    base = config.rope_parameters[kinds[index]]["rope_theta"]
    assert_layers_agree(
        agree, module, theirs, split, lambda p: encoding_of("rope", N, H, base=base), out="Wo",
        causal=False, window=window, q_order=ORDER, k_order=ORDER,
    )  # fmt: skip


def test_gpt_oss(agree):
    """YaRN, a window and a sink."""
    config = config_of(
        "GptOss", layer_types=["sliding_attention", "full_attention"], sliding_window=6,
        rope={
            "rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "truncate": False,
            "original_max_position_embeddings": 4096, "beta_fast": 32.0, "beta_slow": 1.0,
        },
    )  # fmt: skip
    module = randomised(gpt_oss.GptOssAttention(config, layer_idx=0))
    angles = gpt_oss.GptOssRotaryEmbedding(config)

    def theirs(x):
        turns = angles(x, torch.tensor(POSITIONS))
        mask = hidden(seen_by(WHOLE, causal=True, window=6))
        return module(x, position_embeddings=turns, attention_mask=mask)[0]

    name = "rope(base=150000.0,scaling='yarn',factor=32.0,truncate=False)+sink"
    assert_layers_agree(
        agree, module, theirs,
        grouped,
        lambda p: encoding_of(name, N, H, key_heads=K, parameters={"logit": p["sinks"]}),
        out="o_proj", window=6, q_order=ORDER, k_order=ORDER,
    )  # fmt: skip


@pytest.mark.parametrize("layer_type", ["full_attention", "sliding_attention"])
def test_gemma_3(agree, layer_type):
    """Normalised queries and keys; two bases in one model."""
    bases = {"full_attention": 1000000.0, "sliding_attention": 10000.0}
    config = transformers.Gemma3TextConfig(
        hidden_size=D, num_attention_heads=N, num_key_value_heads=K, head_dim=H, vocab_size=32,
        num_hidden_layers=2, layer_types=list(bases), query_pre_attn_scalar=11, sliding_window=6,
        rope_parameters={
            kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()
        },
    )  # fmt: skip
    module = randomised(gemma3.Gemma3Attention(config, layer_idx=list(bases).index(layer_type)))
    angles = gemma3.Gemma3RotaryEmbedding(config)
    window = 6 if layer_type == "sliding_attention" else None

    def theirs(x):
        turns = angles(x, torch.tensor(POSITIONS), layer_type)
        mask = hidden(seen_by(WHOLE, causal=True, window=window))
        return module(x, position_embeddings=turns, attention_mask=mask)[0]

    assert_layers_agree(
        agree, module, theirs,
        functools.partial(grouped, epsilon=config.rms_norm_eps, shift=1.0),
        lambda p: encoding_of("rope", N, H, key_heads=K, base=bases[layer_type]), out="o_proj",
        scale=11**-0.5, window=window, q_order=ORDER, k_order=ORDER,
    )  # fmt: skip


@pytest.mark.parametrize("layer_type", ["full_attention", "sliding_attention"])
def test_gemma_4(agree, layer_type):
    """Global layers have larger heads, of which a quarter of the pairs turns: p-RoPE."""
    rope = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {
            "rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25,
        },
    }  # fmt: skip
    config = transformers.Gemma4TextConfig(
        hidden_size=D, num_attention_heads=N, num_key_value_heads=K, head_dim=H, global_head_dim=16,
        num_hidden_layers=2, layer_types=list(rope), sliding_window=6, vocab_size=32,
        rope_parameters=rope, hidden_size_per_layer_input=0,
    )  # fmt: skip
    module = randomised(gemma4.Gemma4TextAttention(config, list(rope).index(layer_type)))
    angles = gemma4.Gemma4TextRotaryEmbedding(config)
    is_full = layer_type == "full_attention"
    options = {"base": 1000000.0, "scaling": "p_rope", "kept": 0.25} if is_full else {}
    window = None if is_full else 6

    def theirs(x):
        turns = angles(x, torch.tensor(POSITIONS), layer_type)
        return module(x, turns, hidden(seen_by(WHOLE, causal=True, window=window)), {})[0]

    def split(p, x):
        q, k, v = grouped(p, x, epsilon=config.rms_norm_eps)
        return q, k, rms_norm(v, 1.0, config.rms_norm_eps)

    assert_layers_agree(
        agree, module, theirs, split,
        lambda p: encoding_of("rope", N, 16 if is_full else H, key_heads=K, **options),
        out="o_proj", scale=1.0, window=window, q_order=ORDER, k_order=ORDER,
    )  # fmt: skip


@pytest.mark.parametrize("turned", [False, True], ids=["values still", "rotary_value"])
def test_roformer(agree, turned):
    config = transformers.RoFormerConfig(
        hidden_size=D, num_attention_heads=N, num_hidden_layers=1, rotary_value=turned
    )
    module = randomised(roformer.RoFormerSelfAttention(config))
    table = roformer.RoFormerSinusoidalPositionalEmbedding(T, H)
    table.weight.data = table.create_weight().double()
    segments = left_padded(T, 7)

    def theirs(x):
        waves = table((B, T))[None, None]
        return module(x, hidden(seen_by(segments, causal=False)), sinusoidal_pos=waves)[0]

    def ours(p, x):
        options = {"layout": "interleaved", "values": "turned" if turned else "still"}
        places = np.arange(T)
        return attend(
            p, x, encoding_of("rope", N, H, **options), N, ("query", "key", "value", None),
            q_positions=places, k_positions=places, q_segments=segments, k_segments=segments,
        )  # fmt: skip

    inputs = {"x": random(B, T, D, std=0.5)}
    agree(theirs, ours, inputs, module=module, rows=segments != 0, tolerance=FLOAT32)


@pytest.mark.parametrize("interleaved", [True, False], ids=["interleaved", "half"])
def test_deepseek_v3(agree, interleaved):
    """Only the last dimensions of a head turn, and their keys are shared by all heads."""
    still, turned, of_values, rank = 6, 4, 5, 9
    config = transformers.DeepseekV3Config(
        hidden_size=D, num_attention_heads=N, num_key_value_heads=N, num_hidden_layers=1,
        q_lora_rank=None, kv_lora_rank=rank, qk_rope_head_dim=turned, qk_nope_head_dim=still,
        v_head_dim=of_values, rope_interleave=interleaved, vocab_size=32,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )  # fmt: skip
    module = randomised(deepseek_v3.DeepseekV3Attention(config, layer_idx=0))
    angles = deepseek_v3.DeepseekV3RotaryEmbedding(config)

    def theirs(x):
        return module(x, angles(x, torch.tensor(POSITIONS)), hidden(CAUSAL))[0]

    def split(p, x):
        q = heads(linear(p, "q_proj", x), N)
        low = linear(p, "kv_a_proj_with_mqa", x)
        shared = jnp.broadcast_to(low[:, :, None, rank:], (B, T, N, turned))
        norm = rms_norm(low[..., :rank], p["kv_a_layernorm.weight"], 1e-6)
        kv = heads(linear(p, "kv_b_proj", norm), N)
        return q, jnp.concatenate([kv[..., :still], shared], -1), kv[..., still:]

    options = {"fraction": turned / (still + turned), "part": "last"}
    options["layout"] = "interleaved" if interleaved else "half"
    assert_layers_agree(
        agree, module, theirs, split, lambda p: encoding_of("rope", N, still + turned, **options),
        out="o_proj",
    )  # fmt: skip
