"""Decoders of any encoding, and the few programs that the laws of their contract share.

A model has one layer: what several share, and how they are scanned, is the stack's own doing and no scheme's. The
program of the gradients gives the logits of whole rows too.
"""

import functools

import jax
import numpy as np
from flax import nnx

from relpos.nn import Decoder, TransformerConfig
from relpos.positions import Window
from tests.drawn import drawn

B, T, V = 2, 13, 31


@functools.cache
def made(name, config):
    layers = tuple(name.split(","))
    config = {"num_heads": 6, "num_kv_heads": 3, "num_layers": len(layers), "features": 24} | dict(
        config
    )
    sizes = TransformerConfig(encodings=layers, **config)
    return drawn(lambda: Decoder(sizes, vocab_size=V, rngs=nnx.Rngs(0)), sizes)


def make(name, window=None, **config):
    model = nnx.merge(*made(name, tuple(config.items())))
    # As the config would: to make a model takes as long as a program, and a window has no parameters.
    for block in model.stack.blocks:
        block.attention.window = Window.of(window)
    return model


@functools.cache
def empty(name, window=None):
    """Caches that T tokens fill, or with a window a ring."""
    return caches_of(make(name, window=window), B, T)


def caches_of(model, rows, length, positions=None):
    """Return empty caches; outside a program each array of theirs would be a program."""
    return jax.jit(lambda at: model.init_caches(rows, length, positions=at))(positions)


def tokens(batch=B, length=T, seed=1):
    return np.random.default_rng(seed).integers(0, V, (batch, length), np.int32)


def in_numpy(program):
    """Compile a function; its logits come as NumPy's array, which slices without a program."""
    compiled = nnx.jit(program)

    def run(*args):
        found = compiled(*args)
        return (np.asarray(found[0]), found[1]) if isinstance(found, tuple) else np.asarray(found)

    return run


@in_numpy
def forward(model, tokens_BT, segments=None):
    return model(tokens_BT, segments=segments)


@in_numpy
def grow(model, tokens_BT, caches, segments=None):
    return model.decode(tokens_BT, caches, segments=segments)


@in_numpy
def placed(model, tokens_BT, positions, segments):
    return model(tokens_BT, positions=positions, segments=segments)


@in_numpy
def ordered(model, tokens_BT, positions, order=None):
    return model(tokens_BT, positions=positions, order=order)


@in_numpy
def grow_at(model, tokens_BT, caches, positions, order=None):
    return model.decode(tokens_BT, caches, positions=positions, order=order)


@jax.jit
def rows_of(caches, rows):
    return tuple(cache.take(rows) for cache in caches)


@in_numpy
def dropped(model, tokens_BT, key):
    return model(tokens_BT, key=key)


class _Embedded(nnx.Module):
    """An embedding that has looked its tokens up already."""

    def __init__(self, found, table):
        self.found, self.embedding = nnx.Variable(found), nnx.Variable(table)
        self.features = table.shape[1]

    def __call__(self, tokens_BT):
        return self.found[...]


@functools.cache
def differentiated(name):
    """A function of tokens and weights: the gradients of the sum of all logits times weights, and the logits.

    The gradients are to the parameters and to the tokens, one-hot.
    """
    graphdef, trained, fixed = nnx.split(make(name), nnx.Param, ...)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def gradient(trained, one_hot, x, weights):
        model = nnx.merge(graphdef, trained, fixed)
        table = model.embed.table.embedding[...]
        model.embed.table = _Embedded(one_hot @ table, table)
        logits = model(x)
        return (logits * weights).sum(), logits

    return lambda x, weights: gradient(trained, np.eye(V, dtype=np.float32)[x], x, weights)


def gradients(name, weights):
    return differentiated(name)(tokens(), weights)[0]


def whole(name, x, window=None):
    """The logits of whole rows."""
    if window is not None:
        return forward(make(name, window=window), x)
    return np.asarray(differentiated(name)(x, np.zeros((B, T, V), np.float32))[1])


def forget():
    """Let go of all models."""
    for kept in (made, empty, differentiated):
        kept.cache_clear()
