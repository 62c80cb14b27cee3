"""T5's layers in Hugging Face's transformers."""

import pytest
from transformers import MT5Config, T5Config, UMT5Config
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
