"""Other libraries' attention for bench_attention.py: B=1, causal, float32, on the CPU.

Each peer is a function (T, heads, head size) -> [(name, forward, forward and backward)]. It raises ImportError if its
library is missing; None stands for what the library cannot do.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

Made = list[tuple[str, Callable[[], Any] | None, Callable[[], Any] | None]]


def jax_nn(T: int, N: int, H: int) -> Made:
    """jax.nn.dot_product_attention without positions: dense on the CPU."""
    q, k, v, weight = (
        jax.random.normal(key, (1, T, N, H)) for key in jax.random.split(jax.random.key(0), 4)
    )
    attend = jax.jit(lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True))
    step = jax.jit(jax.grad(lambda q, k, v: (attend(q, k, v) * weight).sum(), (0, 1, 2)))
    return [
        (
            "jax.nn, no positions",
            lambda: jax.block_until_ready(attend(q, k, v)),
            lambda: jax.block_until_ready(step(q, k, v)),
        )
    ]


def _torch_inputs(T: int, N: int, H: int):
    import torch

    torch.manual_seed(0)
    return (
        torch,
        [torch.randn(1, N, T, H, requires_grad=True) for _ in range(3)],
        torch.randn(1, N, T, H),
    )


def _torch_calls(torch, attend, inputs, weight):
    def forward():
        with torch.no_grad():
            return attend()

    def step():
        for x in inputs:
            x.grad = None
        (attend() * weight).sum().backward()

    return forward, step


def sdpa(T: int, N: int, H: int) -> Made:
    """PyTorch's C++ flash attention without positions."""
    torch, (q, k, v), weight = _torch_inputs(T, N, H)
    attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    return [("PyTorch SDPA, no positions", *_torch_calls(torch, attend, (q, k, v), weight))]


def _t5_buckets(torch, T: int):
    """Return T5's causal buckets of i - j: 32 of them, up to distance 128."""
    n = torch.arange(T)
    coarse = 16 + (torch.log(n.clamp(min=1) / 16) / math.log(128 / 16) * 16).long()
    of_distance = torch.where(n < 16, n, coarse.clamp(max=31))
    d = (torch.arange(T)[:, None] - torch.arange(T)[None]).clamp(min=0)
    return of_distance[d]


def sdpa_bias(T: int, N: int, H: int) -> Made:
    """PyTorch's SDPA with T5's bias as a tensor [N, T, T], including the gradient to its table."""
    torch, (q, k, v), weight = _torch_inputs(T, N, H)
    table = torch.randn(32, N, requires_grad=True)
    buckets = _t5_buckets(torch, T)
    hidden = torch.full((T, T), float("-inf")).triu(1)

    def attend():
        bias = table[buckets].permute(2, 0, 1) + hidden
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])

    return [
        ("PyTorch SDPA, T5 bias tensor", *_torch_calls(torch, attend, (q, k, v, table), weight))
    ]


def flex(T: int, N: int, H: int) -> Made:
    """Compiled FlexAttention with T5's bias; it has no backward pass on the CPU."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    _, (q, k, v), _ = _torch_inputs(T, N, H)
    q, k, v = (x.detach() for x in (q, k, v))
    table = torch.randn(32, N)
    buckets = _t5_buckets(torch, T)[:, 0].contiguous()  # of each distance

    def bias(score, b, h, i, j):
        return score + table[buckets[(i - j).clamp(min=0)], h]

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, device="cpu")
    compiled = torch.compile(flex_attention)

    def forward():
        with torch.no_grad():
            return compiled(q, k, v, score_mod=bias, block_mask=mask)

    return [("PyTorch FlexAttention, T5", forward, None)]


def hugging_face(T: int, N: int, H: int) -> Made:
    """Hugging Face's T5 attention layer, T5's bias as a tensor; its four projections are timed with it."""
    import torch
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(d_model=N * H, d_kv=H, num_heads=N, is_decoder=True, dropout_rate=0.0)
    layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    torch.manual_seed(0)
    x = torch.randn(1, T, N * H, requires_grad=True)
    hidden = torch.full((T, T), float("-inf")).triu(1)[None, None]
    trained = [x, *layer.parameters()]
    calls = _torch_calls(torch, lambda: layer(x, mask=hidden)[0], trained, torch.randn(1, T, N * H))
    return [("Hugging Face T5 layer", *calls)]


def x_transformers(T: int, N: int, H: int) -> Made:
    """x-transformers' attention with its T5 bias, through PyTorch's SDPA."""
    from x_transformers.attend import Attend
    from x_transformers.x_transformers import RelativePositionBias

    torch, (q, k, v), weight = _torch_inputs(T, N, H)
    bias = RelativePositionBias(scale=1.0, causal=True, heads=N)
    attend = Attend(causal=True, heads=N, flash=True)
    inputs = (q, k, v, *bias.parameters())
    calls = _torch_calls(torch, lambda: attend(q, k, v, attn_bias=bias(T, T))[0], inputs, weight)
    return [("x-transformers, T5 bias", *calls)]


def tokamax(T: int, N: int, H: int) -> Made:
    """tokamax's attention without positions: on the CPU XLA's, whole or in chunks."""
    import tokamax as library
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tokamax"])  # so that it does not parse our command line

    q, k, v, weight = (
        jax.random.normal(key, (1, T, N, H)) for key in jax.random.split(jax.random.key(0), 4)
    )
    attend = jax.jit(
        lambda q, k, v: library.dot_product_attention(
            q, k, v, is_causal=True, implementation="xla_chunked"
        )
    )
    step = jax.jit(jax.grad(lambda q, k, v: (attend(q, k, v) * weight).sum(), (0, 1, 2)))
    return [
        (
            "tokamax xla_chunked, no positions",
            lambda: jax.block_until_ready(attend(q, k, v)),
            lambda: jax.block_until_ready(step(q, k, v)),
        )
    ]


PEERS: dict[str, Callable[[int, int, int], Made]] = {
    "sdpa": sdpa,
    "sdpa_bias": sdpa_bias,
    "flex": flex,
    "jax": jax_nn,
    "hugging_face": hugging_face,
    "x_transformers": x_transformers,
    "tokamax": tokamax,
}

# These hold arrays [N, T, T].
DENSE = ("sdpa_bias", "jax", "hugging_face", "x_transformers")
