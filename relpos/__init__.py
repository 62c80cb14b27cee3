"""Relative position encodings for JAX and Flax."""

from typing import TYPE_CHECKING, Any

from relpos import encodings as encodings

if TYPE_CHECKING:
    from relpos.attention import attention as attention
    from relpos.training.loaded_run import load_run  # noqa: F401
else:
    from relpos import attention as attention  # which may be called
from relpos.errors import what_is_missing as _what_is_missing
from relpos.nn import RelativeAttention as RelativeAttention

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import `load_run` where it is asked for: it wants the packages of relpos[train]."""
    if name != "load_run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from relpos.training.loaded_run import load_run
    except ModuleNotFoundError as error:
        raise ImportError(f"relpos.load_run: {_what_is_missing(error)}") from error
    return load_run
