"""Options that the layers of a stack take in turn: the first layer takes the first value, and so on."""

import ast
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from relpos.encodings.composed import expressions
from relpos.positions import Window


class Turn(NamedTuple):
    """The options of one layer that other layers may not share.

    Attributes:
      encoding: a scheme, as `relpos.encodings.create` reads it.
      window: how far a token sees.
      scale: the factor of the dot products; None: the encoding's own, 1 / sqrt(H) if it has none.
      softcap: the bound of the logits; None: no cap.
    """

    encoding: Any
    window: Window = Window()
    scale: float | None = None
    softcap: float | None = None


def windows(given: Any) -> tuple[Window, ...]:
    """Return the window of each turn, from one for all (an integer, None or a `Window`) or a sequence of them.

    In a sequence, a pair is (past, future). As text: "none, 128:64*2".

    Raises:
      ValueError: a value is no window.
    """
    return _each("window", given, Window.of)


def scales(given: Any) -> tuple[float | None, ...]:
    """Return the scale of each turn, see `windows`."""
    return _each("scale", given, lambda value: _number("scale", value, lambda x: True))


def softcaps(given: Any) -> tuple[float | None, ...]:
    """Return the softcap of each turn, see `windows`."""
    return _each("softcap", given, lambda value: _number("softcap", value, lambda x: x > 0))


def together(num_layers: int, **options: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return the options of each layer of the pattern, whose length is the least common multiple of all turns.

    Raises:
      ValueError: the number of layers is no multiple of that length.
    """
    length = math.lcm(*map(len, options.values()))
    if num_layers % length:
        turns = ", ".join(f"{len(of)} ({name})" for name, of in options.items() if len(of) > 1)
        raise ValueError(
            f"{num_layers} layers cannot take turns of {turns}: the number of layers must be a multiple of {length}"
        )
    return [{name: each[i % len(each)] for name, each in options.items()} for i in range(length)]


def _each(name: str, given: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Read one value, or those of a sequence, or of a text such as "none, 128:64*2"."""
    if isinstance(given, str):
        given = [value for part in given.split(",") for value in _repeated(name, part)]
    elif isinstance(given, Window) or not isinstance(given, tuple | list):
        given = (given,)
    if not given:
        raise ValueError(
            f"{name} is empty: give one value, or several that the layers take in turn"
        )
    return tuple(map(read, given))


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
        return text  # refused, by name, by the reader of the value


def _number(name: str, value: Any, is_right: Callable[[float], bool]) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value) or not is_right(value):
        kind = "a positive number" if name == "softcap" else "a finite number"
        raise ValueError(f"{name} must be {kind} or None, got {value!r}")
    return float(value)
