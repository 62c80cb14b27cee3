"""Other libraries' attention for bench_attention.py: B=1, causal, float32, on the CPU.

Each peer is a function (T, heads, head size) -> (name, forward, forward and backward). It raises ImportError if its
library is missing; None stands for what the library cannot do.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax

Call = Callable[[], Any]
Made = tuple[str, Call, Call | None]


def _by_jax(name: str, attention: Callable, T: int, N: int, H: int) -> Made:
    """Return the calls of an attention with the signature of jax.nn's."""
    q, k, v, weight = (
        jax.random.normal(key, (1, T, N, H)) for key in jax.random.split(jax.random.key(0), 4)
    )
    attend = jax.jit(lambda q, k, v: attention(q, k, v, is_causal=True))
    step = jax.jit(jax.grad(lambda q, k, v: (attend(q, k, v) * weight).sum(), (0, 1, 2)))
    return (
        name,
        lambda: jax.block_until_ready(attend(q, k, v)),
        lambda: jax.block_until_ready(step(q, k, v)),
    )


def _by_torch(name: str, attend: Call, inputs: Sequence[Any] = ()) -> Made:
    """Return the calls of an attention of PyTorch, whose gradients go to the inputs."""
    import torch

    def forward():
        with torch.no_grad():
            return attend()

    weight = torch.randn_like(forward())

    def step():
        for x in inputs:
            x.grad = None
        (attend() * weight).sum().backward()

    return name, forward, step if inputs else None


def _heads(torch: Any, T: int, N: int, H: int) -> list[Any]:
    """Return random queries, keys and values [1, N, T, H]."""
    torch.manual_seed(0)
    return [torch.randn(1, N, T, H, requires_grad=True) for _ in range(3)]


def _t5_buckets(torch: Any, T: int) -> Any:
    """Return T5's causal buckets of the distances 0 ... T - 1: 32 of them, up to distance 128."""
    d = torch.arange(T)
    coarse = 16 + (torch.log(d.clamp(min=1) / 16) / math.log(128 / 16) * 16).long()
    return torch.where(d < 16, d, coarse.clamp(max=31))


def jax_nn(T: int, N: int, H: int) -> Made:
    """jax.nn.dot_product_attention without positions: dense on the CPU."""
    return _by_jax("jax.nn, no positions", jax.nn.dot_product_attention, T, N, H)


def tokamax(T: int, N: int, H: int) -> Made:
    """Return tokamax's attention without positions: on the CPU, XLA's in chunks."""
    import tokamax as library
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tokamax"])  # so that it does not parse our command line
    attention = functools.partial(library.dot_product_attention, implementation="xla_chunked")
    return _by_jax("tokamax xla_chunked, no positions", attention, T, N, H)


def sdpa(T: int, N: int, H: int) -> Made:
    """PyTorch's C++ flash attention without positions."""
    import torch

    q, k, v = _heads(torch, T, N, H)
    attend = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # noqa: E731
    return _by_torch("PyTorch SDPA, no positions", attend, (q, k, v))


def sdpa_bias(T: int, N: int, H: int) -> Made:
    """PyTorch's SDPA with T5's bias as a tensor [N, T, T], including the gradient to its table."""
    import torch

    q, k, v = _heads(torch, T, N, H)
    table = torch.randn(32, N, requires_grad=True)
    d = (torch.arange(T)[:, None] - torch.arange(T)).clamp(min=0)
    buckets, hidden = _t5_buckets(torch, T)[d], torch.full((T, T), float("-inf")).triu(1)

    def attend():
        bias = table[buckets].permute(2, 0, 1) + hidden
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])

    return _by_torch("PyTorch SDPA, T5 bias tensor", attend, (q, k, v, table))


def flex(T: int, N: int, H: int) -> Made:
    """Compiled FlexAttention with T5's bias; it has no backward pass on the CPU."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = (x.detach() for x in _heads(torch, T, N, H))
    table, buckets = torch.randn(32, N), _t5_buckets(torch, T)

    def bias(score, b, h, i, j):
        return score + table[buckets[(i - j).clamp(min=0)], h]

    mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, T, T, device="cpu")
    compiled = torch.compile(flex_attention)
    attend = lambda: compiled(q, k, v, score_mod=bias, block_mask=mask)  # noqa: E731
    return _by_torch("PyTorch FlexAttention, T5", attend)


def hugging_face(T: int, N: int, H: int) -> Made:
    """Hugging Face's T5 attention layer, T5's bias as a tensor; its four projections are timed with it."""
    import torch
    from transformers.models.t5.configuration_t5 import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    config = T5Config(d_model=N * H, d_kv=H, num_heads=N, is_decoder=True, dropout_rate=0.0)
    layer = T5Attention(config, has_relative_attention_bias=True, layer_idx=0).eval()
    x = torch.randn(1, T, N * H, requires_grad=True)
    hidden = torch.full((T, T), float("-inf")).triu(1)[None, None]
    attend = lambda: layer(x, mask=hidden)[0]  # noqa: E731
    return _by_torch("Hugging Face T5 layer", attend, [x, *layer.parameters()])


def x_transformers(T: int, N: int, H: int) -> Made:
    """x-transformers' attention with its T5 bias, through PyTorch's SDPA."""
    import torch
    from x_transformers.attend import Attend
    from x_transformers.x_transformers import RelativePositionBias

    q, k, v = _heads(torch, T, N, H)
    bias = RelativePositionBias(scale=1.0, causal=True, heads=N)
    attend = Attend(causal=True, heads=N, flash=True)
    call = lambda: attend(q, k, v, attn_bias=bias(T, T))[0]  # noqa: E731
    return _by_torch("x-transformers, T5 bias", call, [q, k, v, *bias.parameters()])


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
