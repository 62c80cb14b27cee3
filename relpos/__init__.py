"""Relative position encodings for JAX and Flax."""

import importlib
from typing import TYPE_CHECKING, Any

from relpos.errors import what_is_missing as _what_is_missing

if TYPE_CHECKING:
    from relpos import encodings as encodings
    from relpos import linen as linen
    from relpos import nn as nn
    from relpos import places as places
    from relpos import positions as positions
    from relpos.attention import attention as attention
    from relpos.nn import RelativeAttention as RelativeAttention
    from relpos.runs import load_run as load_run

__version__ = "0.1.0"
__all__ = [
    "RelativeAttention", "attention", "encodings", "linen", "load_run", "nn", "places", "positions",
]  # fmt: skip
_MODULES = {"RelativeAttention": "relpos.nn", "load_run": "relpos.runs"}


def __getattr__(name: str) -> Any:
    """Import lazily: commands prepare their process before JAX is imported."""
    if name in ("attention", "encodings", "linen", "nn", "places", "positions"):
        return importlib.import_module(f"relpos.{name}")  # `relpos.attention` may be called
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_MODULES[name]), name)
    except ModuleNotFoundError as error:
        raise ImportError(f"relpos.{name}: {_what_is_missing(error)}") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
