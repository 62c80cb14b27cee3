"""Speech models of Hugging Face's transformers: vectors of clipped distances, and Transformer-XL's sinusoids."""

import jax.numpy as jnp
import pytest
import torch
from transformers import VitsConfig, Wav2Vec2BertConfig, Wav2Vec2ConformerConfig
from transformers.models.speecht5 import modeling_speecht5 as speecht5
from transformers.models.vits import modeling_vits as vits
from transformers.models.wav2vec2_bert import modeling_wav2vec2_bert as bert
from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as conformer

from tests.parity.comparing import (
    FLOAT32,
    attend,
    encoding_of,
    hidden,
    left_padded,
    random,
    randomised,
    seen_by,
)

B, T, N, H = 2, 31, 3, 6
D = N * H
NAMES = ("linear_q", "linear_k", "linear_v", "linear_out")
PADDING = pytest.mark.parametrize("padding", [0, 9], ids=["whole rows", "left padding"])


@PADDING
@pytest.mark.parametrize(("left", "right"), [(64, 8), (5, 2), (3, 9), (4, 0), (6, 6)])
def test_relative_key_of_wav2vec2_bert(agree, left, right, padding):
    config = Wav2Vec2BertConfig(
        hidden_size=D, num_attention_heads=N, position_embeddings_type="relative_key",
        left_max_position_embeddings=left, right_max_position_embeddings=right,
    )  # fmt: skip
    module = randomised(bert.Wav2Vec2BertSelfAttention(config))
    segments = left_padded(T, padding)

    def theirs(x):
        return module(x, hidden(seen_by(segments, causal=False)))[0]

    def ours(p, x):
        tables = {"keys": p["distance_embedding.weight"]}
        shaw = encoding_of("shaw", N, H, parameters=tables, k=left, right=right, values=False)
        return attend(p, x, shaw, N, NAMES, q_segments=segments, k_segments=segments)

    agree(
        theirs, ours, {"x": random(B, T, D)}, module=module, rows=segments != 0, tolerance=FLOAT32
    )


@PADDING
@pytest.mark.parametrize("longest", [4, 100])
def test_speecht5(agree, longest, padding):
    """m distances to the left, m - 1 to the right; its table counts i - j and is multiplied with queries."""
    module = randomised(speecht5.SpeechT5Attention(D, N))
    table = randomised(speecht5.SpeechT5RelativePositionalEncoding(H, longest))
    both = torch.nn.ModuleDict({"layer": module, "distances": table})
    segments = left_padded(T, padding)

    def theirs(x):
        mask = hidden(seen_by(segments, causal=False))
        return module(x, attention_mask=mask, position_bias=table(x))[0]

    def ours(p, x):
        keys = p["distances.pe_k.weight"][::-1]
        shaw = encoding_of(
            "shaw", N, H, parameters={"keys": keys}, k=longest - 1, right=longest, values=False
        )
        names = tuple(f"layer.{of}_proj" for of in ("q", "k", "v", "out"))
        return attend(p, x, shaw, N, names, q_segments=segments, k_segments=segments)

    agree(theirs, ours, {"x": random(B, T, D)}, module=both, rows=segments != 0)


@PADDING
@pytest.mark.parametrize("window", [4, 40])
def test_vits(agree, window, padding):
    """Vectors on keys and values, none beyond the window: there ours, which clips, has zeros."""
    config = VitsConfig(hidden_size=D, num_attention_heads=N, window_size=window)
    module = randomised(vits.VitsAttention(config))
    segments = left_padded(T, padding)

    def theirs(x):
        return module(x, attention_mask=hidden(seen_by(segments, causal=False)))[0]

    def ours(p, x):
        tables = {
            name: jnp.pad(p[f"emb_rel_{name[0]}"][0], ((1, 1), (0, 0))) for name in ("keys", "values")
        }  # fmt: skip
        shaw = encoding_of("shaw", N, H, parameters=tables, k=window + 1)
        names = tuple(f"{of}_proj" for of in ("q", "k", "v", "out"))
        return attend(p, x, shaw, N, names, q_segments=segments, k_segments=segments)

    agree(theirs, ours, {"x": random(B, T, D)}, module=module, rows=segments != 0)


@PADDING
@pytest.mark.parametrize(
    ("models", "config", "prefix"),
    [
        (bert, Wav2Vec2BertConfig, "Wav2Vec2Bert"),
        (conformer, Wav2Vec2ConformerConfig, "Wav2Vec2Conformer"),
    ],
    ids=["Wav2Vec2-BERT", "Wav2Vec2-Conformer"],
)
def test_relative(agree, models, config, prefix, padding):
    config = config(hidden_size=D, num_attention_heads=N, position_embeddings_type="relative")
    module = randomised(getattr(models, f"{prefix}SelfAttention")(config))
    waves = getattr(models, f"{prefix}RelPositionalEmbedding")(config)
    segments = left_padded(T, padding)

    def theirs(x):
        mask = hidden(seen_by(segments, causal=False))
        return module(x, mask, relative_position_embeddings=waves(x))[0]

    def ours(p, x):
        kernel = p["linear_pos.weight"].T.reshape(D, N, H)
        kernel = jnp.concatenate([kernel[::2], kernel[1::2]])  # there sines and cosines take turns
        parameters = {
            "kernel": jnp.moveaxis(kernel, 1, 0), "u": p["pos_bias_u"], "v": p["pos_bias_v"],
        }  # fmt: skip
        relative = encoding_of("transformer_xl", N, H, features=D, parameters=parameters)
        return attend(p, x, relative, N, NAMES, q_segments=segments, k_segments=segments)

    agree(
        theirs, ours, {"x": random(B, T, D)}, module=module, rows=segments != 0, tolerance=FLOAT32
    )
