"""T5's layers in Hugging Face's transformers."""

import numpy as np
import pytest
import torch
from transformers import MT5Config, T5Config, UMT5Config
from transformers.models.mt5.modeling_mt5 import MT5Attention
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.umt5.modeling_umt5 import UMT5Attention

import relpos
from tests.parity.comparing import (
    causal_mask,
    encoding_of,
    heads,
    hidden,
    joined,
    linear,
    padding_mask,
    random,
    randomised,
)

B, T, D, H = 2, 37, 14, 7
LEFT_PADDED = np.array([[1] * T, [0] * 11 + [1] * (T - 11)])


def attend(p, x, *, num_heads, bidirectional, buckets, farthest, segments=None):
    """T5's layer, out of ours."""
    table = p["relative_attention_bias.weight"].T
    t5 = encoding_of(
        "t5", num_heads, H, features=D, parameters={"table": table}, num_buckets=buckets,
        max_distance=farthest, bidirectional=bidirectional,
    )  # fmt: skip
    q, k, v = (heads(linear(p, name, x), num_heads) for name in "qkv")
    out = relpos.attention(
        q, k, v, encoding=t5, causal=not bidirectional, scale=1.0,
        q_segments=segments, k_segments=segments,
    )  # fmt: skip
    return linear(p, "o", joined(out))


@pytest.mark.parametrize("padded", [False, True], ids=["whole rows", "left padding"])
@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (32, 20), (10, 30), (6, 7)], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True], ids=["causal", "bidirectional"])
@pytest.mark.parametrize(
    ("layer", "config"),
    [(T5Attention, T5Config), (MT5Attention, MT5Config), (UMT5Attention, UMT5Config)],
    ids=["T5", "MT5", "UMT5"],
)
def test_layers_of_transformers(agree, layer, config, bidirectional, buckets, farthest, padded):
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
    segments = LEFT_PADDED if padded else np.ones((B, T), int)
    seen = padding_mask(segments) if bidirectional else causal_mask(T, segments)
    real = segments[..., None]

    def theirs(x):
        mask = hidden(seen)
        # What padding sees is not defined: of transformers all, of ours nothing.
        if layer is UMT5Attention:
            return module(x, attention_mask=mask)[0] * torch.tensor(real)
        return module(x, mask=mask)[0] * torch.tensor(real)

    def ours(p, x):
        options = {"bidirectional": bidirectional, "buckets": buckets, "farthest": farthest}
        return real * attend(p, x, num_heads=num_heads, segments=segments, **options)

    agree(theirs, ours, {"x": random(B, T, D)}, module=module)
