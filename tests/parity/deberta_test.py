"""DeBERTa v2 in Hugging Face's transformers: shared projections or its own, linear distances or logarithmic ones."""

import jax.numpy as jnp
import pytest
import torch
from transformers import DebertaV2Config
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from relpos import encodings
from tests.parity.comparing import (
    FLOAT32,
    attend,
    encoding_of,
    left_padded,
    random,
    randomised,
    seen_by,
)

B, T, N, H = 2, 41, 3, 4
D = N * H


def without_bias(module, names):
    """Take away what the paper's projections of positions do not have; shared ones have none anywhere."""
    for name in names:
        getattr(module, name).bias = None
    return module


@pytest.mark.parametrize("padding", [0, 9], ids=["whole rows", "left padding"])
@pytest.mark.parametrize(
    ("span", "buckets", "farthest"),
    [(50, -1, 50), (7, -1, 7), (8, 8, 30), (16, 16, 25), (5, 5, 200)],
)
@pytest.mark.parametrize("share", [True, False], ids=["shared", "own"])
def test_layers(agree, share, span, buckets, farthest, padding):
    config = DebertaV2Config(
        hidden_size=D, num_attention_heads=N, relative_attention=True, share_att_key=share,
        pos_att_type=["c2p", "p2c"], position_buckets=buckets, max_relative_positions=farthest,
    )  # fmt: skip
    module = randomised(DisentangledSelfAttention(config))
    module = without_bias(
        module, ["query_proj", "key_proj"] if share else ["pos_key_proj", "pos_query_proj"]
    )
    segments = left_padded(T, padding)
    mask = torch.tensor(seen_by(segments, causal=False))

    def theirs(x, table):
        return module(x, mask, rel_embeddings=table)[0]

    def of_heads(kernel):
        return kernel.T.reshape(D, N, H)

    def ours(p, x, table):
        kernels = {
            key: jnp.moveaxis(of_heads(p[f"{name}.weight"]), 1, 0)
            for key, name in (("of_keys", "pos_key_proj"), ("of_queries", "pos_query_proj"))
            if not share
        }
        deberta = encoding_of(
            "deberta", N, H, parameters={"table": table, **kernels}, span=span, share=share,
            keys_by_query=True, log_buckets=buckets > 0, max_distance=farthest,
        )  # fmt: skip
        if share:
            deberta = encodings.bind(
                deberta, of_heads(p["query_proj.weight"]), of_heads(p["key_proj.weight"])
            )
        names = ("query_proj", "key_proj", "value_proj", None)
        return attend(p, x, deberta, N, names, q_segments=segments, k_segments=segments)

    inputs = {"x": random(B, T, D), "table": random(2 * span, D, seed=1)}
    agree(theirs, ours, inputs, module=module, rows=segments != 0, tolerance=FLOAT32)
