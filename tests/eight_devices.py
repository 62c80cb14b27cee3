"""Run by `sharding_test` with eight CPU devices: compiles gradients of sharded inputs and prints what it found.

A line of JSON for each case: how many collectives the program has, and how far the result is from that of one device.
"""

import functools
import json
import os
import re
import sys

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_parallel_codegen_split_count=1 "
    "--xla_cpu_use_fusion_emitters=false"
)

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from relpos import attention, encodings
from relpos.attention import choices
from relpos.attention.per_head import SPLIT
from relpos.nn import (
    Decoder,
    EncoderDecoder,
    RelativeAttention,
    TransformerConfig,
)

B, T, N, H = 16, 136, 8, 4  # more pairs than are computed with all heads together
D = N * H
MOVES = ("all-gather", "all-to-all", "collective-permute")
BY_HEADS = {"qkv": P(None, "x"), "out": P("x", None)}
ROWS, HEADS, SEQUENCE = P("x"), P(None, None, "x"), P(None, "x")


def arrays(*shapes):
    random = np.random.default_rng(0)
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


def gradient_of(loss):
    return jax.jit(jax.value_and_grad(loss, allow_int=True))


def measure(kind, gradient, state, shardings, given, kernels=None):
    """Compile gradient(state, *given) with the given arrays cut so, and compare.

    Kernels are cut as `kernels` says by name, what belongs to heads with the heads, other parameters not at all.
    """
    axis_type = AxisType.Explicit if kind == "explicit" else AxisType.Auto
    mesh = jax.make_mesh((8,), ("x",), axis_types=(axis_type,))
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec))  # noqa: E731
    wanted = gradient(state, *given)
    by_heads = kernels is not None or HEADS in shardings

    def placed(path, x):
        if by_heads and isinstance(x, SPLIT):
            return put(x, P("x"))
        return put(x, (kernels or {}).get(path[0].key, P()))

    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    cut = jax.tree_util.tree_map_with_path(placed, state, is_leaf=is_variable)
    args = [put(x, spec) for x, spec in zip(given, shardings, strict=True)]
    program = gradient.lower(cut, *args).compile()
    found = program(cut, *args)
    found, wanted = ([np.asarray(x) for x in jax.tree.leaves(tree)] for tree in (found, wanted))
    largest = max(np.abs(x).max() for x in wanted)  # some gradients are zeros but for rounding
    errors = [
        np.abs(a - b).max() / (np.abs(b).max() + 1e-3 * largest)
        for a, b in zip(found, wanted, strict=True)
    ]
    text = program.as_text()
    counts = {name: len(re.findall(rf"\b{name}(?:-start)?\(", text)) for name in MOVES}
    return counts | {"error": float(max(errors))}


@functools.cache
def attending(name, implementation):
    """The gradient of a call, its parameters and arrays: the same program, however they are cut."""
    encoding = encodings.create(name, num_heads=N, head_dim=H, features=D, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(encoding)
    q, k, v, x = arrays(*[(B, T, N, H)] * 3, (B, T, D))
    kw = {"causal": True, "implementation": implementation}

    def loss(state, q, k, v, x):
        encoding = nnx.merge(graphdef, state)
        features, _ = encodings.tokens(encoding, x)
        used = None if encoding.adds_to_input() else encoding
        out = attention(q, k, v, encoding=used, q_features=features, k_features=features, **kw)
        return (out**2).sum()

    return gradient_of(loss), state, [q, k, v, x]


def function(kind, name, spec, implementation="blockwise"):
    gradient, state, given = attending(name, implementation)
    of_input = spec if spec != HEADS else P()
    return measure(kind, gradient, state, [spec, spec, spec, of_input], given)


def layer(kind, name, spec=ROWS, kernels=None):
    graphdef, state = nnx.split(RelativeAttention(N, D, encoding=name, rngs=nnx.Rngs(0)))
    loss = lambda state, x: (nnx.merge(graphdef, state)(x) ** 2).sum()  # noqa: E731
    return measure(kind, gradient_of(loss), state, [spec], arrays((B, T, D)), kernels)


SIZES = {"features": D, "num_heads": N, "dropout_rate": 0.1}


def decoder(kind, name):
    config = TransformerConfig(encodings=(name,), num_layers=2, **SIZES)
    graphdef, state = nnx.split(Decoder(config, vocab_size=7, rngs=nnx.Rngs(0)))
    tokens = jnp.arange(B * T).reshape(B, T) ** 2 % 7
    segments = jnp.broadcast_to(1 + jnp.arange(T) // 50, (B, T))

    def loss(state, tokens, segments):
        model = nnx.merge(graphdef, state)
        logits = model(tokens, segments=segments, key=jax.random.key(0))
        return jax.nn.logsumexp(logits, -1).mean()

    return measure(kind, gradient_of(loss), state, [ROWS, ROWS], [tokens, segments])


def encoder_decoder(kind, name):
    sides = TransformerConfig(encodings=(name,), num_layers=2, **SIZES)
    model = EncoderDecoder(
        encoder=sides, decoder=sides, source_vocab=7, target_vocab=7, rngs=nnx.Rngs(0)
    )
    graphdef, state = nnx.split(model)
    tokens = jnp.arange(B * T).reshape(B, T) ** 2 % 7
    loss = lambda state, x, y: jax.nn.logsumexp(nnx.merge(graphdef, state)(x, y), -1).mean()  # noqa: E731
    return measure(kind, gradient_of(loss), state, [ROWS, ROWS], [tokens, tokens])


def as_accelerators_do(name, spec):
    choices.heads_at_once = lambda *_: choices.ALL
    jax.clear_caches()
    return function("auto", name, spec)


QUICK = {
    "function, heads, t5": lambda: function("auto", "t5", HEADS),
    "function, rows, shaw, dense": lambda: function("auto", "shaw", ROWS, "reference"),
    "explicit function, heads, t5": lambda: function("explicit", "t5", HEADS),
    "explicit function, sequence, alibi": lambda: function("explicit", "alibi", SEQUENCE),
    "explicit layer, rows, fox": lambda: layer("explicit", "fox"),
}
LONG = {
    **{
        f"function, rows, {name}": functools.partial(function, "auto", name, ROWS)
        for name in encodings.names()
    },
    "function, mixed heads, dape": lambda: function("auto", "dape", HEADS),
    "explicit function, mixed heads, dape": lambda: function("explicit", "dape", HEADS),
    "function, sequence, alibi": lambda: function("auto", "alibi", SEQUENCE),
    "function, heads, fox": lambda: function("auto", "fox", HEADS),
    "explicit layer, rows, shaw": lambda: layer("explicit", "shaw"),
    "layer, rows, t5": lambda: layer("auto", "t5"),
    "layer, kernels by heads, t5": lambda: layer("auto", "t5", P(), BY_HEADS),
    "decoder, rows, fox": lambda: decoder("auto", "fox"),
    "explicit encoder-decoder, rows, rope": lambda: encoder_decoder("explicit", "rope"),
    "encoder-decoder, rows, rope": lambda: encoder_decoder("auto", "rope"),
    "explicit function, rows, shaw, dense": lambda: function("explicit", "shaw", ROWS, "reference"),
    "explicit decoder, rows, fox": lambda: decoder("explicit", "fox"),
    "explicit decoder, rows, sinusoidal": lambda: decoder("explicit", "sinusoidal"),
    "function as on accelerators, rows, t5": lambda: as_accelerators_do("t5", ROWS),
    "function as on accelerators, heads, t5": lambda: as_accelerators_do("t5", HEADS),
}

if __name__ == "__main__":
    for case, measured in {"quick": QUICK, "long": LONG}[sys.argv[1]].items():
        print(json.dumps({"case": case, **measured()}), flush=True)
