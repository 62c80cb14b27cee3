"""What the layers of a stack take in turn: of one value each, of several the first layer the first, and so on."""

import ast
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from relpos.encodings.composed import expressions
from relpos.positions import Window


class Turn(NamedTuple):
    """What one layer has of its own.

    Attributes:
      encoding: as `relpos.encodings.create` reads it.
      window: how far a token sees.
      scale: of the dot products; None: what the encoding says, 1 / sqrt(H) if nothing.
      softcap: of the logits; None: no cap.
    """

    encoding: Any
    window: Window = Window()
    scale: float | None = None
    softcap: float | None = None


def windows(given: Any) -> tuple[Window, ...]:
    """Return the window of each turn: an integer, None or a `Window` is that of all; a sequence has one for each.

    There a pair has two sides, (past, future). As text: "none, 128:64*2".

    Raises:
      ValueError: names what is no window.
    """
    return _each("window", given, Window.of)


def scales(given: Any) -> tuple[float | None, ...]:
    """Return the scale of each turn, see `windows`."""
    return _each("scale", given, lambda value: _number("scale", value, lambda x: True))


def softcaps(given: Any) -> tuple[float | None, ...]:
    """Return the softcap of each turn, see `windows`."""
    return _each("softcap", given, lambda value: _number("softcap", value, lambda x: x > 0))


def together(num_layers: int, **options: tuple[Any, ...]) -> list[dict[str, Any]]:
    """Return what the layers of one group have: as many as the least common multiple of all options' turns.

    Raises:
      ValueError: the number of layers is no multiple of that.
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
        return text  # which whoever reads it names


def _number(name: str, value: Any, is_right: Callable[[float], bool]) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not math.isfinite(value) or not is_right(value):
        kind = "a positive number" if name == "softcap" else "a finite number"
        raise ValueError(f"{name} must be {kind} or None, got {value!r}")
    return float(value)
