"""ALiBi in Hugging Face's transformers: BLOOM, MPT and Falcon; the slopes of 12 heads are the authors'."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import BloomConfig, FalconConfig, MptConfig
from transformers.models.bloom import modeling_bloom as bloom
from transformers.models.falcon import modeling_falcon as falcon
from transformers.models.mpt import modeling_mpt as mpt

import relpos
from tests.parity.comparing import (
    FLOAT32,
    encoding_of,
    heads,
    hidden,
    joined,
    left_padded,
    linear,
    random,
    randomised,
    seen_by,
)

B, T, H = 2, 29, 4
HEADS = [1, 2, 3, 8, 12, 20]


def attend(p, q, k, v, out, num_heads, segments, **options):
    alibi = encoding_of("alibi", num_heads, H, **options)
    joint = joined(
        relpos.attention(
            q, k, v, encoding=alibi, causal=True, q_segments=segments, k_segments=segments
        )
    )
    return linear(p, out, joint)


@pytest.mark.parametrize("padding", [0, 9], ids=["whole rows", "left padding"])
@pytest.mark.parametrize("num_heads", HEADS)
def test_bloom(agree, num_heads, padding):
    D = num_heads * H
    module = randomised(bloom.BloomAttention(BloomConfig(hidden_size=D, n_head=num_heads), 0))
    segments = left_padded(T, padding)
    alibi = bloom.build_alibi_tensor(torch.tensor(segments), num_heads, torch.float64)
    mask = hidden(seen_by(segments, causal=True))

    def theirs(x, residual):
        return module(x, residual, alibi, mask)[0]

    def ours(p, x, residual):
        qkv = linear(p, "query_key_value", x).reshape(B, T, num_heads, 3, H)
        q, k, v = jnp.moveaxis(qkv, 3, 0)
        return residual + attend(p, q, k, v, "dense", num_heads, segments)

    inputs = {"x": random(B, T, D), "residual": random(B, T, D, seed=1)}
    agree(theirs, ours, inputs, module=module, rows=segments != 0, tolerance=FLOAT32)


@pytest.mark.parametrize("num_heads", HEADS)
def test_mpt(agree, num_heads):
    """If the number of heads is no power of two, the same slopes come in another order."""
    D = num_heads * H
    module = randomised(mpt.MptAttention(MptConfig(d_model=D, n_heads=num_heads), 0))
    alibi = mpt.build_mpt_alibi_tensor(num_heads, T)
    mask = torch.tensor(~seen_by(np.ones((B, T), int), causal=True))

    def theirs(x):
        return module(x, alibi, attention_mask=mask)[0]

    def ours(p, x):
        q, k, v = (heads(y, num_heads) for y in jnp.split(linear(p, "Wqkv", x), 3, -1))
        slopes = {} if num_heads & (num_heads - 1) == 0 else {"slopes": mpt_slopes(num_heads)}
        return attend(p, q, k, v, "out_proj", num_heads, np.ones((B, T), int), **slopes)

    agree(theirs, ours, {"x": random(B, T, D)}, module=module, tolerance=FLOAT32)


def mpt_slopes(num_heads):
    """Return every other of the slopes of 2c heads, from the second on, then the others."""
    both = 2 ** int(np.ceil(np.log2(num_heads)))
    every = [2 ** (-8 * h / both) for h in range(1, both + 1)]
    return tuple((every[1::2] + every[::2])[:num_heads])


@pytest.mark.parametrize("num_heads", [1, 2, 3, 8])
def test_falcon(agree, num_heads):
    """Its bias is scaled like the products."""
    D = num_heads * H
    config = FalconConfig(
        hidden_size=D, num_attention_heads=num_heads, num_hidden_layers=1, alibi=True, bias=True,
        new_decoder_architecture=False, multi_query=True, attn_implementation="eager",
    )  # fmt: skip
    module = randomised(falcon.FalconAttention(config, 0))
    whole = np.ones((B, T), int)
    alibi = falcon.build_alibi_tensor(torch.tensor(whole), num_heads, torch.float64)
    mask = hidden(seen_by(whole, causal=True))
    slopes = tuple(slope / H**0.5 for slope in paper_slopes(num_heads))

    def theirs(x):
        return module(x, alibi, mask)[0]

    def ours(p, x):
        qkv = heads(linear(p, "query_key_value", x), num_heads + 2)
        alibi = encoding_of("alibi", num_heads, H, key_heads=1, slopes=slopes)
        out = relpos.attention(
            qkv[:, :, :-2], qkv[:, :, -2:-1], qkv[:, :, -1:], encoding=alibi, causal=True
        )
        return linear(p, "dense", joined(out))

    agree(theirs, ours, {"x": random(B, T, D)}, module=module, tolerance=FLOAT32)


def test_falcon_rounds_what_is_no_power_of_two():
    """Slopes and biases of 12 heads are rounded to 8 bits, so that equal distances differ; ours are not rounded."""
    length = 300
    found = falcon.build_alibi_tensor(torch.ones(1, length, dtype=int), 12, torch.float32)
    found = found.reshape(12, length).numpy()
    exact = np.outer(paper_slopes(12), np.arange(length))
    rounded = jnp.asarray(paper_slopes(12), jnp.bfloat16)[:, None] * jnp.arange(length)
    np.testing.assert_array_equal(found, np.asarray(rounded.astype(jnp.bfloat16), np.float32))
    away = abs(found - exact)
    assert 0 < (away / np.maximum(exact, 1e-9)).max() < 2**-7
    assert away.max() > 0.5


def paper_slopes(num_heads):
    return (
        -relpos.encodings.biases(encoding_of("alibi", num_heads, H), jnp.array([1]))[:, 0]
    ).tolist()


def test_slopes_are_those_of_bloom():
    for num_heads in (*range(1, 17), 20, 25, 32, 40, 64, 112):
        theirs = bloom._get_alibi_slopes(num_heads, torch.device("cpu"))
        np.testing.assert_allclose(
            paper_slopes(num_heads), theirs, rtol=1e-6, err_msg=f"{num_heads} heads"
        )
