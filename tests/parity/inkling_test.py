"""Inkling's layers in Hugging Face's transformers: a profile of distances for each query."""

import jax.numpy as jnp
import numpy as np
import pytest
from transformers import InklingTextConfig
from transformers.models.inkling.modeling_inkling import InklingAttention

import relpos
from relpos import encodings
from tests.parity.comparing import (
    FLOAT32,
    encoding_of,
    heads,
    hidden,
    joined,
    linear,
    random,
    randomised,
    rms_norm,
    seen_by,
)

B, T, N, K, H, D, RANK = 2, 33, 4, 2, 6, 10, 5


def smoothed(p, name, x):
    """A causal convolution of each channel, added to it."""
    kernel = p[f"{name}.conv1d.weight"][:, 0]  # [channels, width], the last meets the token itself
    width = kernel.shape[1]
    padded = jnp.pad(x, ((0, 0), (width - 1, 0), (0, 0)))
    return x + sum(kernel[:, j] * padded[:, j : j + T] for j in range(width))


@pytest.mark.parametrize("floor", [0, 4, 20], ids="floor {}".format)
@pytest.mark.parametrize(("kind", "extent"), [("full", 9), ("full", 100), ("sliding", 7)])
def test_layers(agree, kind, extent, floor):
    config = InklingTextConfig(
        hidden_size=D, num_hidden_layers=1, num_attention_heads=N, num_key_value_heads=K, head_dim=H,
        swa_num_attention_heads=N, swa_num_key_value_heads=K, swa_head_dim=H, d_rel=RANK,
        sliding_window_size=extent, rel_extent=extent, log_scaling_n_floor=floor or None,
        log_scaling_alpha=0.3, layer_types=["hybrid_sliding" if kind == "sliding" else "hybrid"],
    )  # fmt: skip
    module = randomised(InklingAttention(config, 0))
    window = extent if kind == "sliding" else None
    sharpened = floor if kind == "full" else 0

    def theirs(x):
        return module(x, hidden(seen_by(np.ones((B, T), int), causal=True, window=window)))[0]

    def ours(p, x):
        kernel = p["r_proj.weight"].T.reshape(D, N, RANK)
        inkling = encoding_of(
            "inkling", N, H, key_heads=K, features=D, rank=RANK, extent=extent, log_floor=sharpened,
            parameters={
                "kernel": jnp.moveaxis(kernel, 1, 0), "profiles": p["rel_logits_proj.proj"].T,
            },
            **({"log_alpha": 0.3} if sharpened else {}),
        )  # fmt: skip
        q = heads(linear(p, "q_proj", x), N)
        k, v = (heads(smoothed(p, f"{of}_sconv", linear(p, f"{of}_proj", x)), K) for of in "kv")
        q, k = (
            rms_norm(y, p[f"{of}_norm.weight"], config.rms_norm_eps)
            for of, y in (("q", q), ("k", k))
        )
        features, _ = encodings.tokens(inkling, x)
        out = relpos.attention(
            q, k, v, encoding=inkling, causal=True, window=window, scale=1 / H,
            q_features=features, k_features=features,
        )  # fmt: skip
        return linear(p, "o_proj", joined(out))

    agree(theirs, ours, {"x": random(B, T, D)}, module=module, tolerance=FLOAT32)
