"""Relative position encodings for JAX and Flax."""

from typing import TYPE_CHECKING

from relpos import encodings as encodings

if TYPE_CHECKING:
    from relpos.attention import attention as attention
else:
    from relpos import attention as attention  # which may be called
from relpos.nn import RelativeAttention as RelativeAttention

__version__ = "0.1.0"
