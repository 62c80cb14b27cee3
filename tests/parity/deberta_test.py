"""DeBERTa in Hugging Face's transformers: shared projections or its own, linear distances or logarithmic ones."""

import jax.numpy as jnp
import pytest
import torch
from transformers import DebertaConfig, DebertaV2Config
from transformers.models.deberta import modeling_deberta as deberta
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

import relpos
from relpos import encodings
from tests.parity.comparing import (
    FLOAT32,
    attend,
    encoding_of,
    heads,
    joined,
    left_padded,
    linear,
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
        encoding = encoding_of(
            "deberta", N, H, parameters={"table": table, **kernels}, span=span, share=share,
            keys_by_query=True, log_buckets=buckets > 0, max_distance=farthest,
        )  # fmt: skip
        if share:
            encoding = encodings.bind(
                encoding, of_heads(p["query_proj.weight"]), of_heads(p["key_proj.weight"])
            )
        names = ("query_proj", "key_proj", "value_proj", None)
        return attend(p, x, encoding, N, names, q_segments=segments, k_segments=segments)

    inputs = {"x": random(B, T, D), "table": random(2 * span, D, seed=1)}
    agree(theirs, ours, inputs, module=module, rows=segments != 0, tolerance=FLOAT32)


@pytest.mark.parametrize("padding", [0, 9], ids=["whole rows", "left padding"])
@pytest.mark.parametrize("span", [7, 60])
def test_version_1(agree, span, padding):
    """Projections of its own, those of each head side by side."""
    config = DebertaConfig(
        hidden_size=D, num_attention_heads=N, relative_attention=True,
        pos_att_type=["c2p", "p2c"], max_relative_positions=span,
    )  # fmt: skip
    module = randomised(deberta.DisentangledSelfAttention(config))
    module = without_bias(module, ["pos_q_proj"])
    segments = left_padded(T, padding)
    mask = torch.tensor(seen_by(segments, causal=False))

    def theirs(x, table):
        distances = deberta.build_relative_position(x, x)
        return module(x, mask, relative_pos=distances, rel_embeddings=table)[0]

    def ours(p, x, table):
        q, k, v = jnp.split(heads(linear(p, "in_proj", x), N), 3, -1)
        parameters = {"table": table} | {
            key: jnp.moveaxis(p[f"{name}.weight"].T.reshape(D, N, H), 1, 0)
            for key, name in (("of_keys", "pos_proj"), ("of_queries", "pos_q_proj"))
        }
        encoding = encoding_of(
            "deberta", N, H, parameters=parameters, span=span, keys_by_query=True
        )
        out = relpos.attention(
            q + p["q_bias"].reshape(N, H), k, v + p["v_bias"].reshape(N, H), encoding=encoding,
            q_segments=segments, k_segments=segments,
        )  # fmt: skip
        return joined(out)

    inputs = {"x": random(B, T, D), "table": random(2 * span, D, seed=1)}
    agree(theirs, ours, inputs, module=module, rows=segments != 0, tolerance=FLOAT32)
