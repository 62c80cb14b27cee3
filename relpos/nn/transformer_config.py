"""The sizes and options of a stack of Transformer layers."""

import dataclasses
from typing import Any

import jax

from relpos.encodings.composed import expressions
from relpos.nn import layer_pattern
from relpos.nn import mlp as mlp_lib
from relpos.nn.attention_helpers import check_heads
from relpos.nn.layer_pattern import LayerOptions
from relpos.registry import check_choice

CHOICES = {
    "norm": ("rms", "layer"),
    "norm_placement": ("pre", "post"),
    "mlp": tuple(mlp_lib.KINDS),
    "dtype": ("float32", "bfloat16", "float16", "float64"),
    "bias": ("qkv", "out", "mlp", "logits"),
    "dropout": ("attention", "input", "mlp", "output"),
}
_SEVERAL = ("bias", "dropout")  # any of the choices


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The sizes and options of a stack of Transformer layers.

    `encodings`, `window`, `scale` and `softcap` each hold one value for all layers, or a sequence of values that the
    layers take in turn. The period of the pattern of layers is the least common multiple of the sequences' lengths.

    Attributes:
      num_layers: the number of layers, a multiple of the length of the pattern.
      features: D, the width of the model.
      num_heads: N, the number of query heads.
      num_kv_heads: K, the number of heads of keys and values; None: N.
      head_dim: H, the size of a head; None: D / N.
      mlp_features: the hidden width of the MLP; None: 4 D.
      encodings: position encodings, as `relpos.encodings.create` reads them. ("rope", "none") rotates in every other
        layer. As text: "rope*3, none".
      window: see only keys with |d| < window; None: all. (4096, None) limits every other layer. In a sequence, a pair
        is (past, future), see `relpos.positions.Window`. As text: "none, 128:64*2".
      scale: the factor of the dot products, in cross-attention too; None: the encoding's own, 1 / sqrt(H) if it has
        none. T5 uses 1.
      softcap: logits become softcap * tanh(logits / softcap), in cross-attention too; None: no cap.
      dropout_rate: the fraction of values set to zero.
      dropout: what it drops: any of "attention" (the weights), "input" (the embedded tokens), "mlp" (the hidden values)
        and "output" (of each sublayer). As text: "attention, mlp, output", as in PyTorch's layers.
      norm: "rms" (Zhang and Sennrich 2019, arXiv:1910.07467) or "layer" (Ba et al. 2016, arXiv:1607.06450).
      norm_placement: "pre": x + f(norm(x)); "post": norm(x + f(x)), as in Vaswani et al. 2017, arXiv:1706.03762.
      norm_epsilon: the number that norms add to the variance or the mean square.
      final_norm: whether a norm follows the last layer. Post-norm models such as Vaswani's have none.
      mlp: the kind of MLP, see `relpos.nn.mlp`: "relu2", "relu", "gelu", "gelu_tanh", or with a gate "swiglu",
        "geglu", "geglu_tanh".
      parallel: whether attention and MLP read the same x: x + attention(norm(x)) + mlp(norm'(x)), as in GPT-NeoX. GPT-J
        shares one norm.
      bias: which linear maps add a bias: any of "qkv", "out", "mlp" and "logits". As text: "qkv, out, mlp", as in
        GPT-NeoX. Encodings that read the projections of queries and keys, such as `deberta`, read their kernels only.
      qk_norm: whether an RMS norm over the head size follows the projections of queries and keys, as in Qwen3.
      tied_embeddings: whether logits are products with the token embeddings; if not, with a table of their own.
      dtype: the type to compute in; parameters are float32.
    """

    num_layers: int
    features: int
    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    mlp_features: int | None = None
    # Not a key of a config's section `model`: a run sets it by its own key `encoding`.
    encodings: tuple[str, ...] | str = dataclasses.field(default=("rope",), metadata={"key": False})
    window: Any = None
    scale: Any = None
    softcap: Any = None
    dropout_rate: float = 0.0
    dropout: Any = ("attention", "input", "output")
    norm: str = "rms"
    norm_placement: str = "pre"
    norm_epsilon: float = 1e-6
    final_norm: bool = True
    mlp: str = "relu2"
    parallel: bool = False
    bias: Any = ()
    qk_norm: bool = False
    tied_embeddings: bool = True
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "encodings", expressions.layers(self.encodings))
        sizes = ("num_layers", "features", "num_heads", "num_kv_heads", "head_dim", "mlp_features")
        for field in sizes:
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"{field} must be positive, got {value}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must be in [0, 1), got {self.dropout_rate}")
        if not 0 < self.norm_epsilon < 1:
            raise ValueError(f"norm_epsilon must be in (0, 1), got {self.norm_epsilon}")
        for field in _SEVERAL:
            if isinstance(text := getattr(self, field), str):
                names = tuple(name.strip() for name in text.split(",") if name.strip())
                object.__setattr__(self, field, names)
        for field, known in CHOICES.items():
            chosen = getattr(self, field)
            several = field in _SEVERAL and isinstance(chosen, tuple | list)
            for value in chosen if several else (chosen,):
                check_choice(field, str(value), known)
        if self.parallel and self.norm_placement != "pre":
            raise ValueError(
                "parallel layers need norm_placement=pre: post-norm is not defined for parallel sublayers"
            )
        if self.dtype == "float64" and not jax.config.read("jax_enable_x64"):
            raise ValueError(
                "dtype=float64 needs jax_enable_x64 (JAX_ENABLE_X64=1): without it JAX computes in float32"
            )
        check_heads(self.num_heads, self.features, self.num_kv_heads, self.head_dim, "features")
        if not self.encodings:
            raise ValueError(
                "encodings is empty: name one, or several that the layers take in turn"
            )
        self.pattern  # noqa: B018 (raises on a conflict)

    @property
    def pattern(self) -> tuple[LayerOptions, ...]:
        """The options of each layer of the pattern."""
        return layer_pattern.of_layers(
            self.num_layers, tuple(self.encodings), window=self.window, scale=self.scale,
            softcap=self.softcap,
        )  # fmt: skip

    def rate_of(self, dropped: str) -> float:
        """Return the dropout rate of one of the choices of `dropout`."""
        return self.dropout_rate if dropped in self.dropout else 0.0

    @property
    def head_size(self) -> int:
        """Return H."""
        return self.head_dim or self.features // self.num_heads
