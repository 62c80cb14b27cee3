"""Options that the layers of a stack take in turn: the first layer takes the first value, and so on."""

import ast
import math
from typing import Any, NamedTuple

from relpos.encodings.composed import expressions
from relpos.positions import Window


class LayerOptions(NamedTuple):
    """The options in which layers may differ, see `relpos.nn.TransformerConfig`."""

    encoding: Any
    window: Window = Window()
    scale: float | None = None
    softcap: float | None = None


def of_layers(
    num_layers: int, encodings: tuple[Any, ...], **given: Any
) -> tuple[LayerOptions, ...]:
    """Return the options of each layer of the pattern, whose length is the lcm of the sequences' lengths.

    Args:
      num_layers: the number of all layers.
      encodings: the encodings that the layers take in turn.
      **given: window, scale and softcap, each one value or a sequence, in which a pair is a window (past, future). As
        text: "none, 128:64*2".

    Raises:
      ValueError: a value is not allowed, or the number of layers is no multiple of that length.
    """
    options = {"encoding": encodings} | {name: _each(name, of) for name, of in given.items()}
    length = math.lcm(*map(len, options.values()))
    if num_layers % length:
        turns = ", ".join(f"{len(of)} ({name})" for name, of in options.items() if len(of) > 1)
        raise ValueError(
            f"{num_layers} layers cannot take turns of {turns}: the number of layers must be a multiple of {length}"
        )
    return tuple(
        LayerOptions(**{name: each[i % len(each)] for name, each in options.items()})
        for i in range(length)
    )


def _each(name: str, given: Any) -> tuple[Any, ...]:
    """Read one value, or those of a sequence, or of a text such as "none, 128:64*2"."""
    if isinstance(given, str):
        given = [value for part in given.split(",") for value in _repeated(name, part)]
    elif isinstance(given, Window) or not isinstance(given, tuple | list):
        given = (given,)
    if not given:
        raise ValueError(
            f"{name} is empty: give one value, or several that the layers take in turn"
        )
    return tuple(Window.of(x) if name == "window" else _number(name, x) for x in given)


def _repeated(name: str, text: str) -> list[Any]:
    one, times = expressions.repeated(text)
    sides = tuple(_literal(side) for side in one.split(":"))
    return [sides if len(sides) > 1 else sides[0]] * times


def _literal(text: str) -> Any:
    if text.strip().lower() == "none":
        return None
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text  # rejected later, with the option's name


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    positive = name == "softcap"
    finite = isinstance(value, int | float) and math.isfinite(value)
    if not finite or (positive and value <= 0):
        kind = "positive" if positive else "finite"
        raise ValueError(f"{name} must be a {kind} number or None, got {value!r}")
    return float(value)
