"""Encodings as text: sums, heads of several kinds, and schemes that alternate between layers.

layers = heads ["*" times] {"," heads ["*" times]}      rope*3, none
heads  = sum [":" count] {"/" sum [":" count]}          rope:4 / alibi:4
sum    = scheme {"+" scheme}                            rope + t5
scheme = name ["(" option "=" value {"," ...} ")"]      rope(base=500000)
"""

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_NAME = r"[A-Za-z_]\w*"


class Scheme(NamedTuple):
    """A scheme and its options."""

    name: Any  # or the user's own class
    options: tuple[tuple[str, Any], ...] = ()

    def with_defaults(self, options: Mapping[str, Any]) -> "Scheme":
        """Return the scheme with these options added; its own options take precedence."""
        return Scheme(self.name, tuple({**options, **dict(self.options)}.items()))


class Kind(NamedTuple):
    """The summands for one kind of heads, and the number of these heads; None: an equal share."""

    summands: tuple[Scheme, ...]
    heads: int | None = None


Heads = tuple[Kind, ...]


def layers(text: str | Sequence[Any]) -> tuple[Any, ...]:
    """Return the expressions that layers take in turn: "rope*2, none" is ("rope", "rope", "none"); classes are kept.

    Raises:
      ValueError: the text cannot be parsed; the message says which part.
    """
    found: list[Any] = []
    for part in _split(text, ",") if isinstance(text, str) else text:
        if not isinstance(part, str):
            found.append(part)
            continue
        one, times = repeated(part)
        parse(one)
        found += [one.strip()] * times
    return tuple(found)


def repeated(part: str) -> tuple[str, int]:
    """Return what is repeated, and how often: "rope*3" is ("rope", 3).

    Raises:
      ValueError: it is repeated less than once.
    """
    found = re.fullmatch(r"(.*\S)\s*\*\s*(\d+)\s*", part, re.DOTALL)
    one, times = (found[1], int(found[2])) if found else (part, 1)
    if times < 1:
        raise ValueError(f"{part!r}: * must be followed by a number of layers, at least 1")
    return one, times


def parse(text: str | type) -> Heads:
    """Parse the encoding of one layer; a class becomes the only scheme.

    Raises:
      ValueError: the text cannot be parsed; the message says which part.
    """
    if not isinstance(text, str):
        return (Kind((Scheme(text),)),)
    return tuple(_kind(part, text) for part in _split(text, "/"))


def schemes(heads: Heads) -> tuple[Scheme, ...]:
    """Return all schemes of an expression."""
    return tuple(scheme for kind in heads for scheme in kind.summands)


def leaves(layers: Sequence[str]) -> tuple[str, ...]:
    """Return the names of all schemes in the expressions of several layers, without repetition."""
    found = (scheme.name for text in layers for scheme in schemes(parse(text)))
    return tuple(dict.fromkeys(found))


def counts(heads: Heads, num_heads: int) -> tuple[int, ...]:
    """Return the number of heads of each kind.

    Raises:
      ValueError: the numbers do not add up to `num_heads`.
    """
    given = [kind.heads for kind in heads]
    left = num_heads - sum(count for count in given if count is not None)
    shares = given.count(None)
    if left < shares or (left and not shares) or (shares and left % shares):
        told = " / ".join(map(_told, heads))
        raise ValueError(
            f"{told}: the parts must have {num_heads} heads together, shared equally by those without a number"
        )
    return tuple(left // shares if count is None else count for count in given)


def _told(kind: Kind) -> str:
    """Return a kind as text, without options."""
    names = "+".join(str(scheme.name) for scheme in kind.summands)
    return names if kind.heads is None else f"{names}:{kind.heads}"


def _kind(text: str, whole: str) -> Kind:
    counted = re.fullmatch(r"(.*\S)\s*:\s*(\d+)\s*", text, re.DOTALL)
    summands, heads = (counted[1], int(counted[2])) if counted else (text, None)
    if heads == 0:
        raise ValueError(f"encoding {whole!r}: {text.strip()!r} has no heads")
    return Kind(tuple(_scheme(part, whole) for part in _split(summands, "+")), heads)


def _scheme(text: str, whole: str) -> Scheme:
    found = re.fullmatch(rf"\s*({_NAME})\s*(?:\((.*)\))?\s*", text, re.DOTALL)
    if not found:
        raise ValueError(
            f"encoding {whole!r}: cannot read {text.strip()!r}; write NAME or NAME(option=value), joined by + (sums), "
            "/ (heads of several kinds, NAME:4 for four heads) and , (layers in turn, NAME*3 for three)"
        )
    name, options = found.groups()
    if options is None or not options.strip():
        return Scheme(name)
    return Scheme(name, tuple(_option(part, whole) for part in _split(options, ",")))


def _option(text: str, whole: str) -> tuple[str, Any]:
    found = re.fullmatch(rf"\s*({_NAME})\s*=\s*(.*\S)\s*", text, re.DOTALL)
    if not found:
        raise ValueError(f"encoding {whole!r}: cannot read {text.strip()!r}; write option=value")
    key, value = found.groups()
    if re.fullmatch(_NAME, value) and value not in ("True", "False", "None"):
        return key, value  # a word
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"encoding {whole!r}: cannot read the value {value!r} of {key}") from error


def _split(text: str, sign: str) -> list[str]:
    """Split at a sign that is outside all brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([":
            depth += 1
        elif letter in ")]":
            depth -= 1
        if letter == sign and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += letter
    return parts
