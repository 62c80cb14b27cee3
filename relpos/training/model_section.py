"""The sections ``model``, ``encodings`` and ``places`` of a config, read for `relpos.nn`."""

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
    """Return the layers that a config describes.

    Args:
      config: with ``model``.
      encoding: what layers take in turn, separated by commas: scheme names, or several in one.
      causal: whether a token sees only those before it.
      key: of the config, that `encoding` comes from.

    Raises:
      UserError: there is no such scheme, or it is for the past alone and the layers are not.
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
    """Check the config's ``cross_encoding``, of attention from one sequence to another.

    Raises:
      UserError: there is no such scheme, or it has no meaning there.
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
    """Return make(); what its sizes or options have wrong is told as the user's mistake in section `what`."""
    try:
        return make()
    except (ValueError, TypeError) as error:
        raise UserError(f"config section {what!r}: {error}") from error


def check_shapes(config: TransformerRunConfig, make: Callable[[nnx.Rngs], nnx.Module]) -> None:
    """Make the shapes of a model alone, so that mistakes in its sizes are told at once.

    Args:
      config: whose keys messages name.
      make: of random keys the model.

    Raises:
      UserError: what `make` raises, or the parameters do not fit into memory.
    """
    memory.check_model(config, jax.eval_shape(lambda: nnx.state(make(nnx.Rngs(0)))))


def check_length(max_length: int | None, length: int, config: TransformerRunConfig) -> None:
    """Refuse a length that the encodings have no parameters for."""
    if max_length is not None and max_length < length:
        positions = getattr(config, "positions", None)
        whose = f"{config.encoding} or {positions}" if positions else config.encoding
        raise UserError(
            f"{length} tokens are more than the {max_length} positions of {whose}: raise its "
            "max_length, or make the sequences shorter"
        )


def create_places(config: TokenRunConfig, digits: tuple[int, ...]) -> places.Places:
    """Return what the config's ``positions`` names, with its options of the section ``places``.

    Raises:
      UserError: it refuses an option.
    """
    try:  # what is not chosen is checked as well
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
    """Return an untrained model of a sequence of tokens.

    Args:
      kind: `relpos.nn.Decoder`, or one that sees both sides, `relpos.nn.TokenEncoder` or `SpanEncoder`.
      config: with ``model``, ``encoding``, ``encodings``, ``positions`` and ``places``.
      vocab_size: V.
      length: the longest sequence that it must take.
      digits: the ids of the tokens that are digits.
      rngs: for the initial parameters.

    Raises:
      UserError: the sizes, the encoding, its options or the length do not go together.
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
