"""XLNet's layer in Hugging Face's transformers: Transformer-XL's attention, both ways, with the memory of a segment."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import XLNetConfig
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

import relpos
from relpos.positions import consecutive
from tests.parity.comparing import FLOAT32, encoding_of, random, randomised

B, T, N, H = 2, 23, 3, 4
D = N * H


@pytest.mark.parametrize("memory", [0, 9], ids="memory {}".format)
@pytest.mark.parametrize("clamp", [0, 5], ids="clamp {}".format)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
def test_layers(agree, causal, clamp, memory):
    config = XLNetConfig(
        d_model=D, n_head=N, n_layer=1, vocab_size=8, clamp_len=clamp, dropout=0.0,
        attn_type="uni" if causal else "bi",
    )  # fmt: skip
    module = randomised(XLNetRelativeAttention(config))
    waves = XLNetModel(config).relative_positional_encoding(T, memory + T, bsz=B)
    seen = np.tril(np.ones((T, memory + T)), memory) if causal else np.ones((T, memory + T))
    hide = torch.tensor(1 - seen)[:, :, None, None]

    def theirs(x, before):
        # There time is the first axis.
        out = module(
            x.transpose(0, 1), None, hide, None, waves.double(), None, mems=before.transpose(0, 1)
        )
        return out[0].transpose(0, 1)

    def ours(p, x, before):
        both = jnp.concatenate([before, x], 1)
        q = jnp.einsum("btd,dnh->btnh", x, p["q"])
        k, v = (jnp.einsum("btd,dnh->btnh", both, p[of]) for of in "kv")
        parameters = {"kernel": jnp.moveaxis(p["r"], 1, 0), "u": p["r_w_bias"], "v": p["r_r_bias"]}
        relative = encoding_of(
            "transformer_xl", N, H, features=D, parameters=parameters, clamp=clamp
        )
        out = relpos.attention(
            q, k, v, encoding=relative, causal=causal, q_positions=consecutive(memory),
            k_positions=consecutive(0),
        )  # fmt: skip
        out = x + jnp.einsum("btnh,dnh->btd", out, p["o"])
        out = (out - out.mean(-1, keepdims=True)) / jnp.sqrt(
            out.var(-1, keepdims=True) + config.layer_norm_eps
        )
        return out * p["layer_norm.weight"] + p["layer_norm.bias"]

    inputs = {"x": random(B, T, D), "before": random(B, memory, D, seed=1)}
    agree(theirs, ours, inputs, module=module, tolerance=FLOAT32)
