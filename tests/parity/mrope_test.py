"""Rotations by several axes in Hugging Face's transformers: Qwen2-VL has them in sections, Qwen3-VL interleaved."""

import functools

import numpy as np
import pytest
import torch
from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen2_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

from tests.parity.comparing import encoding_of, hidden, randomised
from tests.parity.rotary import CAUSAL, B, K, N, T, assert_layers_agree, grouped

# Time, row and column of text, of an image of 3 x 4 and of text again.
PLACES = np.concatenate(
    [
        np.repeat(np.arange(5)[:, None], 3, 1),
        np.stack([np.full(12, 5), 5 + np.arange(12) // 4, 5 + np.arange(12) % 4], -1),
        np.repeat(9 + np.arange(T - 17)[:, None], 3, 1),
    ]
)


@pytest.mark.parametrize("interleaved", [False, True], ids=["Qwen2-VL", "Qwen3-VL"])
@pytest.mark.parametrize("sections", [(3, 3, 2), (4, 2, 2), (6, 1, 1)], ids=str)
def test_several_axes(agree, sections, interleaved):
    H = 16
    options = {
        "hidden_size": N * H, "num_attention_heads": N, "num_key_value_heads": K, "head_dim": H,
        "num_hidden_layers": 1, "vocab_size": 32,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections),
        },
    }  # fmt: skip
    if interleaved:
        config = qwen3_vl.Qwen3VLTextConfig(**options)
        layer, angles = qwen3_vl.Qwen3VLTextAttention, qwen3_vl.Qwen3VLTextRotaryEmbedding
    else:
        config = qwen2_vl.Qwen2VLTextConfig(**options)
        layer, angles = qwen2_vl.Qwen2VLAttention, qwen2_vl.Qwen2VLRotaryEmbedding
    module, angles = randomised(layer(config, layer_idx=0)), angles(config)
    places = np.broadcast_to(PLACES, (B, T, 3))

    def theirs(x):
        turns = angles(x, torch.tensor(np.moveaxis(places, -1, 0).copy()))
        return module(x, position_embeddings=turns, attention_mask=hidden(CAUSAL))[0]

    epsilon = config.rms_norm_eps if interleaved else None
    assert_layers_agree(
        agree, module, theirs, functools.partial(grouped, epsilon=epsilon),
        lambda p: encoding_of(
            "mrope", N, H, key_heads=K, sections=sections, interleaved=interleaved
        ),
        out="o_proj", width=N * H, q_positions=places, k_positions=places,
    )  # fmt: skip
