"""What the tests of rotary layers share."""

import numpy as np
import transformers

import relpos
from tests.parity.comparing import FLOAT32, heads, joined, linear, random, rms_norm, seen_by

B, T, N, K, H = 2, 23, 6, 3, 8
D = N * H
# Angles are float32 there, so positions are small. They rise, so that they order tokens as the rows do.
POSITIONS = np.stack([np.arange(T), np.sort(np.random.default_rng(3).permutation(100)[:T])])
WHOLE = np.ones((B, T), int)
ORDER = np.broadcast_to(np.arange(T), (B, T))
CAUSAL = seen_by(WHOLE, causal=True)


def config_of(prefix, *, rope=None, **options):
    """Return a small config of its class."""
    defaults = {
        "hidden_size": D, "num_attention_heads": N, "num_key_value_heads": K,
        "head_dim": H, "num_hidden_layers": 2, "vocab_size": 32,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0} | (rope or {}),
    }  # fmt: skip
    return getattr(transformers, f"{prefix}Config")(**defaults | options)


def grouped(p, x, *, epsilon=None, shift=0.0):
    """Return queries, keys and values of three projections; with an epsilon, queries and keys are normalised."""
    counts = (("q", N), ("k", K), ("v", K))
    q, k, v = (heads(linear(p, f"{of}_proj", x), count) for of, count in counts)
    if epsilon is not None:
        q = rms_norm(q, shift + p["q_norm.weight"], epsilon)
        k = rms_norm(k, shift + p["k_norm.weight"], epsilon)
    return q, k, v


def assert_layers_agree(agree, module, theirs, split, encoding, *, out, width=D, **options):
    """Compare layers: `split` makes queries, keys and values from parameters and input; `out` is the output's name."""
    options = {"causal": True, "q_positions": POSITIONS, "k_positions": POSITIONS} | options

    def ours(p, x):
        q, k, v = split(p, x)
        return linear(p, out, joined(relpos.attention(q, k, v, encoding=encoding(p), **options)))

    inputs = {"x": random(B, T, width, std=0.5)}
    agree(theirs, ours, inputs, module=module, tolerance=FLOAT32)
