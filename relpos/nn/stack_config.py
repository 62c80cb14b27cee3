"""The sizes of a stack of layers."""

import dataclasses
from typing import Any

import jax

from relpos.encodings.composed import expressions
from relpos.nn import turns as turns_lib
from relpos.nn.turns import Turn

DTYPES = ("float32", "bfloat16", "float16", "float64")
NORMS = ("pre", "post")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The sizes of a stack of layers.

    Attributes:
      num_layers: a multiple of the number of turns, the least common multiple of those of `encodings`, `window`,
        `scale` and `softcap`.
      features: D, the model's width.
      num_heads: N, query heads.
      num_kv_heads: K; None: N.
      head_dim: H; None: D / N.
      mlp_features: the width inside the MLP; None: 4 D.
      encodings: what the layers use in turn, each as `relpos.encodings.create` reads it: ("rope", "none") rotates in
        every other layer; or as text, "rope*3, none".
      window: see only keys with |d| < window; None: all. A sequence is what the layers take in turn: (4096, None) is a
        window in every other layer. There a pair has two sides (past, future), as a `relpos.positions.Window` has
        anywhere. Or as text, "none, 128:64*2".
      scale: of the dot products, in turn as windows are; None: what the encoding says, 1 / sqrt(H) if nothing. T5's
        is 1. Cross-attention takes it too.
      softcap: logits become softcap * tanh(logits / softcap), in turn likewise; None: no cap. Cross-attention takes
        it too.
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
    scale: Any = None
    softcap: Any = None
    dropout_rate: float = 0.0
    norm: str = "pre"
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "encodings", expressions.turns(self.encodings))
        for field in ("num_layers", "features", "num_heads"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be positive, got {getattr(self, field)}")
        for field, read in (
            ("window", turns_lib.windows),
            ("scale", turns_lib.scales),
            ("softcap", turns_lib.softcaps),
        ):
            object.__setattr__(self, field, read(getattr(self, field)))
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
        if not self.encodings:
            raise ValueError(
                "encodings of no layer: name one, or those that the layers take in turn"
            )
        self.turns  # noqa: B018 (says what does not go together)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What the layers of one group have, one after another; the next group has the same again."""
        group = turns_lib.together(
            self.num_layers,
            encoding=tuple(self.encodings),
            window=self.window,
            scale=self.scale,
            softcap=self.softcap,
        )
        return tuple(Turn(**each) for each in group)

    @property
    def head_size(self) -> int:
        """Return H."""
        return self.head_dim or self.features // self.num_heads
