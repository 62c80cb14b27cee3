"""The sections ``model``, ``encodings`` and ``places`` of a config, read for `relpos.nn`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from flax import nnx
from ml_collections import ConfigDict

from relpos import encodings, places
from relpos.encodings.composed import expressions
from relpos.errors import UserError, did_you_mean
from relpos.nn import Decoder, SpanEncoder, TokenEncoder, TransformerConfig
from relpos.training import memory

TokenModel = TypeVar("TokenModel", Decoder, TokenEncoder, SpanEncoder)


def layer_sizes(config: ConfigDict, key: str = "encoding", *, causal: bool) -> dict[str, Any]:
    """Return the arguments of `relpos.nn.TransformerConfig` that a config gives.

    Args:
      config: with ``model``; a size of 0 stands for None.
      key: of the config, with what layers take in turn, separated by commas: scheme names, or several in one.
      causal: whether a token sees only those before it.

    Raises:
      UserError: there is no such scheme, or it is for the past alone and the layers are not.
    """
    model = config.model
    return {
        "num_layers": model.num_layers,
        "features": model.features,
        "num_heads": model.num_heads,
        "num_kv_heads": model.num_kv_heads or None,
        "head_dim": model.head_dim or None,
        "mlp_features": model.mlp_features or None,
        "encodings": scheme_names(config, key, causal=causal),
        "window": model.window or None,
        "scale": model.scale,
        "softcap": model.softcap,
        "dropout_rate": model.dropout_rate,
        "norm_placement": model.norm,
        "dtype": model.dtype,
    }


def scheme_names(config: ConfigDict, key: str, *, causal: bool) -> tuple[str, ...]:
    """Return what layers take in turn, of a config, with every scheme's name checked; see `layer_sizes`."""
    turns = _turns(config, key)
    for name in expressions.leaves(turns):
        if _scheme(name, key).causal_only and not causal:
            apart = ", or name it in decoder_encoding alone" if "decoder_encoding" in config else ""
            raise UserError(
                f"config key {key!r}: {name} is causal, for keys in the past, and here they stand on both sides: "
                f"choose another scheme{apart}"
            )
    return turns


def _turns(config: ConfigDict, key: str) -> tuple[str, ...]:
    try:
        return expressions.turns(config[key])
    except ValueError as error:
        raise UserError(f"config key {key!r}: {error}") from error


def check_cross_encoding(config: ConfigDict) -> None:
    """Check the config's ``cross_encoding``, of attention from one sequence to another.

    Raises:
      UserError: there is no such scheme, or it has no meaning there.
    """
    turns = _turns(config, "cross_encoding")
    if len(turns) != 1:
        raise UserError(
            f"config key 'cross_encoding': {config.cross_encoding} is for {len(turns)} layers in turn: name "
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


def encoding_options(config: ConfigDict) -> Mapping[str, Mapping[str, Any]]:
    """Return scheme name -> its options, from the section ``encodings``."""
    for name in config.encodings:
        if name not in encodings.names():
            raise UserError(f"unknown encoding {name!r}{did_you_mean(name, encodings.names())}")
    return {name: dict(options) for name, options in config.encodings.items()}


def build(make: Any, what: str) -> Any:
    """Return make(); what its sizes or options have wrong is told as the user's mistake in section `what`."""
    try:
        return make()
    except (ValueError, TypeError) as error:
        raise UserError(f"config section {what!r}: {error}") from error


def check_shapes(config: ConfigDict, make: Callable[[nnx.Rngs], nnx.Module]) -> None:
    """Make the shapes of a model alone, so that mistakes in its sizes are told at once.

    Args:
      config: whose keys messages name.
      make: of random keys the model.

    Raises:
      UserError: what `make` raises, or the parameters do not fit into memory.
    """
    memory.check_model(config, jax.eval_shape(lambda: nnx.state(make(nnx.Rngs(0)))))


def check_length(max_length: int | None, length: int, config: ConfigDict) -> None:
    """Refuse a length that the encodings have no parameters for."""
    if max_length is not None and max_length < length:
        whose = (
            config.encoding
            if not config.get("positions")
            else f"{config.encoding} or {config.positions}"
        )
        raise UserError(
            f"{length} tokens are more than the {max_length} positions of {whose}: raise its "
            "max_length, or make the sequences shorter"
        )


def create_places(config: ConfigDict, digits: tuple[int, ...]) -> places.Places:
    """Return what the config's ``positions`` names, with its options of the section ``places``.

    Raises:
      UserError: there is no such, or it refuses an option.
    """
    for name in config.places:
        if name not in places.names():
            raise UserError(f"unknown positions {name!r}{did_you_mean(name, places.names())}")
    if config.positions and config.positions not in places.names():
        hint = did_you_mean(config.positions, places.names())
        raise UserError(f"config key 'positions': there is no {config.positions!r}{hint}")
    try:  # what is not chosen is checked as well
        made = {name: places.create(name, digits=digits, **o) for name, o in config.places.items()}
        return made.get(config.positions) or places.create(config.positions, digits=digits)
    except ValueError as error:
        raise UserError(f"config section 'places': {error}") from error


def token_model(
    kind: type[TokenModel],
    config: ConfigDict,
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
    sizes = layer_sizes(config, causal=kind is Decoder)
    chosen = build(lambda: TransformerConfig(**sizes), "model")
    try:
        model = kind(
            chosen,
            vocab_size=vocab_size,
            encoding_options=encoding_options(config),
            places=create_places(config, tuple(digits)),
            rngs=rngs,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    check_length(model.max_length, length, config)
    return model
