"""Builds `relpos.nn` models from the config sections ``model``, ``encodings`` and ``places``."""

import dataclasses
from collections.abc import Callable, Sequence
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


def layers(
    config: TransformerRunConfig, encoding: str, *, causal: bool, key: str = "encoding"
) -> TransformerConfig:
    """Return the config of the layers with their encodings.

    Args:
      config: the config.
      encoding: an encoding expression, see `TransformerRunConfig`.
      causal: whether tokens attend only to earlier ones.
      key: the config key of `encoding`, for messages.

    Raises:
      UserError: a scheme is unknown, or supports only causal layers and these are not.
    """
    turns = _turns(encoding, key)
    for name in expressions.leaves(turns):
        if _scheme(name, key).causal_only and not causal:
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


def _turns(encoding: str, key: str) -> tuple[str, ...]:
    try:
        return expressions.turns(encoding)
    except ValueError as error:
        raise UserError(f"config key {key!r}: {error}") from error


def check_cross_encoding(encoding: str) -> None:
    """Check the config's ``cross_encoding``.

    Raises:
      UserError: a scheme is unknown, or does not support cross-attention.
    """
    turns = _turns(encoding, "cross_encoding")
    if len(turns) != 1:
        raise UserError(
            f"config key 'cross_encoding': {encoding} is for {len(turns)} layers in turn: name "
            "one encoding"
        )
    for name in expressions.leaves(turns):
        scheme = _scheme(name, "cross_encoding")
        if scheme.adds_to_input() or scheme.needs_tokens:
            raise UserError(
                f"config key 'cross_encoding': {name} reads the places of one sequence, cross-attention has none of "
                "its own: choose none or a relative scheme"
            )


def _scheme(name: str, key: str) -> type[encodings.Encoding]:
    try:
        return encodings.scheme(name)
    except ValueError as error:
        raise UserError(f"config key {key!r}: {error}") from error


def build(make: Any, what: str) -> Any:
    """Return make(), and report invalid sizes or options as a UserError about section `what`."""
    try:
        return make()
    except (ValueError, TypeError) as error:
        raise UserError(f"config section {what!r}: {error}") from error


def check_shapes(config: TransformerRunConfig, make: Callable[[nnx.Rngs], nnx.Module]) -> None:
    """Build only the shapes of a model, to report invalid sizes early.

    Args:
      config: the config; messages name its keys.
      make: builds the model from random keys.

    Raises:
      UserError: `make` raises it, or the parameters do not fit into memory.
    """
    memory.check_model(config, jax.eval_shape(lambda: nnx.state(make(nnx.Rngs(0)))))


def check_length(max_length: int | None, length: int, config: TransformerRunConfig) -> None:
    """Check that the encodings have parameters for a length."""
    if max_length is not None and max_length < length:
        positions = getattr(config, "positions", None)
        whose = f"{config.encoding} or {positions}" if positions else config.encoding
        raise UserError(
            f"{length} tokens are more than the {max_length} positions of {whose}: raise its "
            "max_length, or make the sequences shorter"
        )


def create_places(config: TokenRunConfig, digits: tuple[int, ...]) -> places.Places:
    """Create the places named by ``positions``, with their options from the section ``places``.

    Raises:
      UserError: an option is invalid.
    """
    try:  # check the options of all, not just the chosen ones
        made = {name: places.create(name, digits=digits, **o) for name, o in config.places.items()}
    except ValueError as error:
        raise UserError(f"config section 'places': {error}") from error
    return made[config.positions] if config.positions else places.create("", digits=digits)


def token_model(
    kind: type[TokenModel],
    config: TokenRunConfig,
    vocab_size: int,
    *,
    length: int,
    digits: Sequence[int] = (),
    rngs: nnx.Rngs,
) -> TokenModel:
    """Return an untrained model of token sequences.

    Args:
      kind: `relpos.nn.Decoder`, or a bidirectional `relpos.nn.TokenEncoder` or `SpanEncoder`.
      config: the config.
      vocab_size: V.
      length: the longest sequence that the model must support.
      digits: ids of the digit tokens.
      rngs: random keys for the initial parameters.

    Raises:
      UserError: the sizes, the encoding, its options or the length are incompatible.
    """
    chosen = build(lambda: layers(config, config.encoding, causal=kind is Decoder), "model")
    try:
        model = kind(
            chosen,
            vocab_size=vocab_size,
            encoding_options=config.encodings,
            places=create_places(config, tuple(digits)),
            rngs=rngs,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    check_length(model.max_length, length, config)
    return model
