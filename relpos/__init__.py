"""Relative position encodings for JAX and Flax."""

from relpos import encodings as encodings
from relpos.attention import attention as attention
from relpos.nn import RelativeAttention as RelativeAttention

__version__ = "0.1.0"
