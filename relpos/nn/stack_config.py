"""The sizes of a stack of layers."""

import dataclasses
from typing import Any

import jax

from relpos.encodings.composed import expressions
from relpos.positions import Window

DTYPES = ("float32", "bfloat16", "float16", "float64")
NORMS = ("pre", "post")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The sizes of a stack of layers.

    Attributes:
      num_layers: a multiple of the number of turns.
      features: D, the model's width.
      num_heads: N, query heads.
      num_kv_heads: K; None: N.
      head_dim: H; None: D / N.
      mlp_features: the width inside the MLP; None: 4 D.
      encodings: what the layers use in turn, each as `relpos.encodings.create` reads it: ("rope", "none") rotates in
        every other layer; or as text, "rope*3, none".
      window: see only keys with |d| < window; or a pair (past, future), see `relpos.positions.Window`; None: all.
      dropout_rate: of attention weights and of what each sublayer adds.
      norm: "pre": x + f(norm(x)); "post": norm(x + f(x)), as in Vaswani et al. 2017, arXiv:1706.03762.
      dtype: to compute in; parameters are float32.
    """

    num_layers: int
    features: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_features: int | None = None
    encodings: tuple[str, ...] | str = ("rope",)
    window: Any = None
    dropout_rate: float = 0.0
    norm: str = "pre"
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "encodings", expressions.turns(self.encodings))
        for field in ("num_layers", "features", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        object.__setattr__(self, "window", Window.of(self.window))
        for field in ("num_kv_heads", "head_dim", "mlp_features"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be positive, got {value}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must be in [0, 1), got {self.dropout_rate}")
        for field, known in (("dtype", DTYPES), ("norm", NORMS)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"{field} must be one of {', '.join(known)}, got {getattr(self, field)!r}"
                )
        if self.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise ValueError(
                "dtype=float64 needs jax_enable_x64 (JAX_ENABLE_X64=1): without it JAX computes in float32"
            )
        if self.head_dim is None and self.features % self.num_heads:
            raise ValueError(
                f"features={self.features} does not divide into num_heads={self.num_heads} heads: "
                "choose a multiple or set head_dim"
            )
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(
                f"num_heads={self.num_heads} query heads cannot share num_kv_heads={self.num_kv_heads} evenly"
            )
        if not self.encodings or self.num_layers % len(self.encodings):
            raise ValueError(
                f"{self.num_layers} layers cannot take {len(self.encodings)} encodings in turn "
                f"({', '.join(map(str, self.encodings))}): the number of layers must be a multiple"
            )

    @property
    def head_size(self) -> int:
        """Return H."""
        return self.head_dim or self.features // self.num_heads
