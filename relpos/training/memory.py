"""Memory checks from shapes alone, before anything is allocated."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from rich.filesize import decimal

from relpos import device_memory
from relpos.encodings.composed import expressions
from relpos.errors import UserError
from relpos.sections import flatten, to_plain
from relpos.training.run_config import RunConfig, TransformerRunConfig


def check(parts: Mapping[str, int], cause: str) -> None:
    """Check that the sum of some lower bounds, name -> bytes, fits into memory.

    Raises:
      UserError: the sum exceeds `device_memory.available()`. The message lists the parts, and ends with the cause.
    """
    there_is, needed = device_memory.available(), sum(parts.values())
    if there_is is not None and needed > there_is:
        listed = ", ".join(f"{name} {decimal(size)}" for name, size in parts.items() if size)
        raise UserError(
            f"this needs at least {decimal(needed)} of memory ({listed}), and there are only {decimal(there_is)}: "
            f"{cause}"
        )


def check_model(
    config: RunConfig, model: nnx.State, *, optimizer: Any = None, activations: int = 0
) -> None:
    """Check that a model fits into memory, with its gradients and optimizer if `optimizer` is given.

    `model` and `optimizer` are shapes, `activations` is a lower bound on the activation bytes of a batch.

    Raises:
      UserError: it does not fit. The message names the sizes and the config keys to make smaller.
    """
    parts = {"parameters": device_memory.tree_bytes(model)}
    if optimizer is not None:
        parts |= {
            "gradients": device_memory.tree_bytes(model),
            "optimizer": device_memory.tree_bytes(optimizer),
        }
    if activations > sum(parts.values()):
        keys = {"batch_size": config.batch_size, "sequence_length": config.sequence_length}
        cause = f"make {_listed(keys)} smaller"
    else:
        path, biggest = max(
            nnx.to_flat_state(model), key=lambda item: device_memory.tree_bytes(item[1])
        )
        name, shape = ".".join(map(str, path)), biggest.shape
        keys = _keys_behind(config, shape)
        cause = f"the biggest parameter is {name} {list(shape)}; make {_listed(keys)} smaller"
    check(parts | {"activations of a batch": activations}, cause)


def activation_bytes(config: TransformerRunConfig, tokens: int, vocab_size: int = 0) -> int:
    """Return the bytes of each layer's input and of float32 logits: a lower bound on activation memory in training."""
    width = jnp.dtype(config.model.dtype).itemsize * config.model.features
    return tokens * (width * config.model.num_layers + 4 * vocab_size)


def rows(config: TransformerRunConfig, length: int) -> int:
    """Return the number of windows of `length` tokens with about as many tokens as a training batch."""
    return max(1, config.batch_size * config.sequence_length // length)


def check_reading(config: TransformerRunConfig, length: int, vocab_size: int = 0) -> None:
    """Check that one layer's input and the logits (see `activation_bytes`) of evaluation windows fit into memory.

    Raises:
      UserError: they do not fit.
    """
    together = rows(config, length)
    width = jnp.dtype(config.model.dtype).itemsize * config.model.features
    check(
        {"activations": together * length * (width + 4 * vocab_size)},
        f"{together} x {length} tokens would be read together; make that length or batch_size={config.batch_size} less",
    )


def check_cache(caches: Callable[[], Any], length: int, cause: str) -> None:
    """Check that the caches for generating rows of `length` tokens, made by `caches()`, fit into memory.

    Raises:
      UserError: they do not fit, or int32 cannot count the tokens.
    """
    if length >= 2**31:
        raise UserError(f"a row of {length} tokens is more than int32 counts: make {cause} smaller")
    check({"cache": device_memory.tree_bytes(jax.eval_shape(caches))}, f"make {cause} smaller")


def _keys_behind(config: RunConfig, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the sizes in a config that divide an axis of the shape, or an axis minus 1."""
    plain = flatten(to_plain(config))
    keys = ("encoding", "decoder_encoding", "cross_encoding")
    chosen = [expressions.layers(plain[key]) for key in keys if plain.get(key)]
    schemes = {name for turns in chosen for name in expressions.leaves(turns)}
    sections = ("model.", "data.", *(f"encodings.{name}." for name in schemes))
    return {
        key: value
        for key, value in plain.items()
        if key.startswith(sections)
        and isinstance(value, int)
        and value > 1
        and any(dim >= value and 0 in (dim % value, (dim - 1) % value) for dim in shape)
    }


def _listed(keys: Mapping[str, int]) -> str:
    """Return the two largest of some config keys with their values."""
    largest = sorted(keys.items(), key=lambda item: -item[1])[:2]
    return " or ".join(f"{key}={value}" for key, value in largest) or "the model"
