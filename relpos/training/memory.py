"""Whether a run fits the memory there is, told from shapes before anything is made."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from relpos import room
from relpos.encodings.composed import expressions
from relpos.errors import UserError
from relpos.sections import flatten, to_plain
from relpos.training.run_config import RunConfig, TransformerRunConfig


def show(size: int) -> str:
    """Return bytes for people: ``5.1 MB``."""
    for factor, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"


def check(parts: Mapping[str, int], cause: str) -> None:
    """Refuse what needs more memory than there is.

    Args:
      parts: what it consists of -> the least bytes of that.
      cause: what asks for so much, and what to change.

    Raises:
      UserError: the sum is greater than `relpos.room.available()`; it names the parts.
    """
    there_is, needed = room.available(), sum(parts.values())
    if there_is is not None and needed > there_is:
        listed = ", ".join(f"{name} {show(size)}" for name, size in parts.items() if size)
        raise UserError(
            f"this needs at least {show(needed)} of memory ({listed}), and there are only {show(there_is)}: {cause}"
        )


def check_model(
    config: RunConfig, model: nnx.State, *, optimizer: Any = None, activations: int = 0
) -> None:
    """Refuse a model that does not fit into memory.

    Args:
      config: whose keys the message names.
      model: the shapes of its parameters.
      optimizer: the shapes of the optimizer's state; None: the model is not trained.
      activations: the least bytes that those of one batch take.

    Raises:
      UserError: it does not; the sizes, the biggest parameter and the keys that make it so are named.
    """
    parts = {"parameters": room.tree_bytes(model)}
    if optimizer is not None:
        parts |= {"gradients": room.tree_bytes(model), "optimizer": room.tree_bytes(optimizer)}
    parts["activations of a batch"] = activations
    if activations > sum(parts.values()) - activations:
        keys = {"batch_size": config.batch_size, "sequence_length": config.sequence_length}
        keys = dict(sorted(keys.items(), key=lambda item: -item[1]))
        check(parts, f"make {_listed(keys)} smaller")
        return
    path, biggest = max(nnx.to_flat_state(model), key=lambda item: room.tree_bytes(item[1]))
    name = ".".join(map(str, path))
    check(
        parts,
        f"the biggest parameter is {name} {list(biggest.shape)}; make {_listed(_keys_behind(config, biggest.shape))} "
        "smaller",
    )


def activation_bytes(config: TransformerRunConfig, places: int, vocab_size: int = 0) -> int:
    """Return the least memory that the activations of a training batch take: each layer's input, and the logits.

    Args:
      config: with ``model``.
      places: of all rows of the batch.
      vocab_size: of the logits, float32; 0: there are none.
    """
    width = jnp.dtype(config.model.dtype).itemsize * config.model.features
    return places * (width * config.model.num_layers + 4 * vocab_size)


def rows(config: TransformerRunConfig, length: int) -> int:
    """Return how many windows of `length` tokens are read together: as many tokens as a training batch has."""
    return max(1, config.batch_size * config.sequence_length // length)


def check_reading(config: TransformerRunConfig, length: int, vocab_size: int = 0) -> None:
    """Refuse windows that do not fit into memory without training: one layer's input, and the logits.

    Args:
      config: with ``model`` and the sizes of a batch.
      length: of a window.
      vocab_size: of the logits, float32; 0: there are none.

    Raises:
      UserError: there is not so much memory.
    """
    together = rows(config, length)
    width = jnp.dtype(config.model.dtype).itemsize * config.model.features
    check(
        {"activations": together * length * (width + 4 * vocab_size)},
        f"{together} x {length} tokens would be read together; make that length or batch_size={config.batch_size} less",
    )


def check_cache(caches: Callable[[], Any], length: int, cause: str) -> None:
    """Refuse to write so many tokens that their cache does not fit into memory.

    Args:
      caches: what makes the caches; only their shapes are.
      length: the tokens of a row.
      cause: the key and value that ask for so many.

    Raises:
      UserError: they do not fit, or int32 cannot count the tokens.
    """
    if length >= 2**31:
        raise UserError(f"a row of {length} tokens is more than int32 counts: make {cause} smaller")
    check({"cache": room.tree_bytes(jax.eval_shape(caches))}, f"make {cause} smaller")


def _keys_behind(config: RunConfig, shape: tuple[int, ...]) -> dict[str, int]:
    """Return the sizes of a config that a shape is made of, the greatest first: its factors, or those less 1."""
    plain = to_plain(config)
    keys = ("encoding", "decoder_encoding", "cross_encoding")
    chosen = [expressions.turns(plain[key]) for key in keys if plain.get(key)]
    schemes = {name for turns in chosen for name in expressions.leaves(turns)}
    options = plain.get("encodings", {})
    sections = {"model": plain.get("model", {}), "data": plain.get("data", {})}
    sections |= {f"encodings.{name}": options[name] for name in options if name in schemes}
    sizes = {
        key: value
        for name, section in sections.items()
        for key, value in flatten(section, f"{name}.").items()
        if isinstance(value, int) and value > 1
    }
    found = {
        key: value
        for key, value in sorted(sizes.items(), key=lambda item: -item[1])
        if any(dim >= value and 0 in (dim % value, (dim - 1) % value) for dim in shape)
    }
    return dict(list(found.items())[:2])


def _listed(keys: Mapping[str, int]) -> str:
    return " or ".join(f"{key}={value}" for key, value in keys.items()) or "the model"
