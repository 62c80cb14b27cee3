"""T5's layers in Hugging Face's transformers, and others with its bias."""

import pytest
import torch
from transformers import MPNetConfig, MT5Config, T5Config, UMT5Config
from transformers.models.mpnet import modeling_mpnet as mpnet
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.umt5.modeling_umt5 import UMT5Attention

from tests.parity.comparing import (
    attend,
    encoding_of,
    hidden,
    left_padded,
    random,
    randomised,
    seen_by,
)

B, D, H = 2, 14, 7


def t5_layer(p, x, *, num_heads, bidirectional, buckets, farthest, segments=None):
    """T5's layer, out of ours."""
    table = p["relative_attention_bias.weight"].T
    t5 = encoding_of(
        "t5", num_heads, H, features=D, parameters={"table": table}, num_buckets=buckets,
        max_distance=farthest, bidirectional=bidirectional,
    )  # fmt: skip
    return attend(
        p, x, t5, num_heads, ("q", "k", "v", "o"), causal=not bidirectional, scale=1.0,
        q_segments=segments, k_segments=segments,
    )  # fmt: skip


@pytest.mark.parametrize("padded", [False, True], ids=["whole rows", "left padding"])
@pytest.mark.parametrize(
    ("length", "buckets", "farthest"), [(150, 32, 128), (37, 32, 20), (37, 10, 30), (37, 6, 7)]
)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize(
    ("layer", "config"),
    [(T5Attention, T5Config), (MT5Attention, MT5Config), (UMT5Attention, UMT5Config)],
    ids=["T5", "MT5", "UMT5"],
)
def test_layers_of_transformers(
    agree, layer, config, bidirectional, length, buckets, farthest, padded
):
    num_heads = 3
    module = randomised(
        layer(
            config(
                d_model=D, d_kv=H, num_heads=num_heads, is_decoder=not bidirectional,
                relative_attention_num_buckets=buckets, relative_attention_max_distance=farthest,
            ),
            has_relative_attention_bias=True,
            layer_idx=0,
        )
    )  # fmt: skip
    segments = left_padded(length, 11 if padded else 0)
    seen = seen_by(segments, causal=not bidirectional)

    def theirs(x):
        return module(x, **{"attention_mask" if layer is UMT5Attention else "mask": hidden(seen)})[
            0
        ]

    def ours(p, x):
        options = {"bidirectional": bidirectional, "buckets": buckets, "farthest": farthest}
        return t5_layer(p, x, num_heads=num_heads, segments=segments, **options)

    agree(theirs, ours, {"x": random(B, length, D)}, module=module, rows=segments != 0)


@pytest.mark.parametrize("padding", [0, 11], ids=["whole rows", "left padding"])
def test_mpnet(agree, padding):
    """T5's bias beside products that are scaled."""
    length, num_heads = 150, 3
    config = MPNetConfig(
        hidden_size=num_heads * H, num_attention_heads=num_heads, num_hidden_layers=0,
        relative_attention_num_buckets=16,
    )  # fmt: skip
    parts = {"layer": mpnet.MPNetSelfAttention(config), "encoder": mpnet.MPNetEncoder(config)}
    module = randomised(torch.nn.ModuleDict(parts))
    segments = left_padded(length, padding)
    mask = hidden(seen_by(segments, causal=False))

    def theirs(x):
        bias = module["encoder"].compute_position_bias(x, num_buckets=16)
        return module["layer"](x, mask, position_bias=bias)[0]

    def ours(p, x):
        table = p["encoder.relative_attention_bias.weight"].T
        t5 = encoding_of(
            "t5", num_heads, H, parameters={"table": table}, num_buckets=16, bidirectional=True
        )
        names = [f"layer.{name}" for name in "qkvo"]
        return attend(p, x, t5, num_heads, names, q_segments=segments, k_segments=segments)

    inputs = {"x": random(B, length, num_heads * H)}
    agree(theirs, ours, inputs, module=module, rows=segments != 0)
