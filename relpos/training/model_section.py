"""Builds `relpos.nn` models from the config sections ``model``, ``encodings`` and ``places``."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
from flax import nnx

from relpos import encodings, places
from relpos.encodings.composed import expressions
from relpos.errors import UserError
from relpos.nn import Decoder, SpanEncoder, TokenEncoder, TransformerConfig
from relpos.training import memory
from relpos.training.run_config import TokenRunConfig, TransformerRunConfig

TokenModel = TypeVar("TokenModel", Decoder, TokenEncoder, SpanEncoder)


@contextlib.contextmanager
def blame(where: str) -> Iterator[None]:
    """Report invalid values as a UserError about a part of the config, such as "config section 'model'"."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"{where}: {error}") from error


def layers(
    config: TransformerRunConfig, encoding: str, *, causal: bool, key: str = "encoding"
) -> TransformerConfig:
    """Return the layers' config with the encodings named in an expression, the value of `key`.

    Raises:
      UserError: a scheme is unknown, or is causal only and the layers are not.
    """
    turns, schemes = _read(encoding, key)
    for name, scheme in schemes.items():
        if scheme.causal_only and not causal:
            apart = (
                ", or name it in decoder_encoding alone"
                if hasattr(config, "decoder_encoding")
                else ""
            )
            raise UserError(
                f"config key {key!r}: {name} is causal, for keys in the past, and here they stand on both sides: "
                f"choose another scheme{apart}"
            )
    return dataclasses.replace(config.model, encodings=turns)


def check_cross_encoding(encoding: str) -> None:
    """Check the config's ``cross_encoding``.

    Raises:
      UserError: a scheme is unknown, or does not support cross-attention.
    """
    turns, schemes = _read(encoding, "cross_encoding")
    if len(turns) != 1:
        raise UserError(
            f"config key 'cross_encoding': {encoding} is for {len(turns)} layers in turn: name "
            "one encoding"
        )
    for name, scheme in schemes.items():
        if scheme.adds_to_input() or scheme.needs_tokens:
            raise UserError(
                f"config key 'cross_encoding': {name} reads the positions of one sequence, cross-attention has none of "
                "its own: choose none or a relative scheme"
            )


def _read(encoding: str, key: str) -> tuple[tuple[str, ...], dict[str, type[encodings.Encoding]]]:
    """Return the encodings that layers take in turn, and their schemes by name."""
    with blame(f"config key {key!r}"):
        turns = expressions.layers(encoding)
        return turns, {name: encodings.scheme(name) for name in expressions.leaves(turns)}


def check_shapes(config: TransformerRunConfig, make: Callable[[nnx.Rngs], nnx.Module]) -> None:
    """Build only the shapes of a model, to report invalid sizes early.

    Raises:
      UserError: `make` raises it, or the parameters do not fit into memory.
    """
    memory.check_model(config, jax.eval_shape(lambda: nnx.state(make(nnx.Rngs(0)))))


def check_length(
    max_length: int | None, length: int, config: TransformerRunConfig, encoding: str = ""
) -> None:
    """Check that the encodings, by default those of the config's ``encoding``, have parameters for a length."""
    if max_length is not None and max_length < length:
        whose = encoding or config.encoding
        if isinstance(config, TokenRunConfig) and config.positions:
            whose += f" or {config.positions}"
        raise UserError(
            f"{length} tokens are more than the {max_length} positions of {whose}: raise its "
            "max_length, or make the sequences shorter"
        )


def token_model(
    kind: type[TokenModel],
    config: TokenRunConfig,
    vocab_size: int,
    *,
    length: int,
    digits: Sequence[int] = (),
    rngs: nnx.Rngs,
) -> TokenModel:
    """Return an untrained model of token sequences: a `Decoder`, or a bidirectional `TokenEncoder` or `SpanEncoder`.

    It must support sequences of `length` tokens. `digits` are the ids of the digit tokens.

    Raises:
      UserError: the sizes, the encoding, its options or the length are incompatible.
    """
    with blame("config section 'model'"):
        chosen = layers(config, config.encoding, causal=kind is Decoder)
    with blame("config section 'places'"):  # check the options of all, not just the chosen ones
        options: dict[str, Any] = {"": {}, **config.places}
        made = {
            name: places.create(name, digits=tuple(digits), **options[name]) for name in options
        }
    try:
        model = kind(
            chosen,
            vocab_size=vocab_size,
            encoding_options=config.encodings,
            places=made[config.positions or ""],
            rngs=rngs,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    check_length(model.max_length, length, config)
    return model
