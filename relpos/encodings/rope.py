"""Rotations of queries and keys by their positions."""

import jax.numpy as jnp
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims
from relpos.encodings.rotations.pairs import LAYOUTS, Rotation, rotated
from relpos.encodings.rotations.scalings import Stretch, scaled
from relpos.registry import check_choice, check_range

PARTS = ("first", "last")
VALUES = {  # the choices, each with the slots that it leaves empty
    "still": {"value", "finish"},
    "turned": {"finish"},
    "relative": set(),
}


class RoPE(Rotation):
    """q_i R(i theta) . k_j R(j theta), which depends on i - j;  theta_m = base^(-2m/R).

    Su et al. 2021, "RoFormer", arXiv:2104.09864, sec. 3.2. The pairs that turn together are (m, m + H/2) in layout
    "half" (GPT-NeoX, LLaMA) and (2m, 2m + 1) in "interleaved" (the paper). `fraction` < 1 turns only R = fraction * H
    dimensions of a head (R = H in the paper): the first ones, or with `part` "last" the last ones (DeepSeek has 64,
    interleaved). Angles are float32 whatever the compute type.

    `values` "turned": values turn like keys, by R(j theta) (RoFormer's rotary_value). "relative": outputs also turn
    back, sum_j p_ij R((j - i) theta) v_j  (García-Castellanos et al. 2026, "RoVE", arXiv:2606.11275; DeepSeek-V4).

    `scaling` adapts a trained model to longer rows: each theta_m is divided by a number, and the turned dimensions of
    queries and keys, not of values, are multiplied by another. `relpos.encodings.rotations.scalings` has the equations.

        linear    all by `factor`                                                                 arXiv:2306.15595
        ntk       the slowest by `factor`, the fastest by 1, through another base                 arXiv:2309.00071
        dynamic   ntk by a factor that grows with target_length / trained_length
        yarn      slow pairs by `factor`: trained_length, beta_slow, beta_fast, truncate          arXiv:2309.00071
        llama3    likewise, as in Llama 3.1                                                       arXiv:2407.21783
        longrope  by factors found by a search, short_factors or long_factors                     arXiv:2402.13753
        p_rope    a fraction `kept` of the pairs, the fastest, turn; the others do not            arXiv:2410.06205

    `beta_fast` 0 means 32, for llama3 4. `attention_factor` 0 means the scaling's own. `target_length` is the longest
    row that the model should serve. Other libraries use the current length, so cached keys no longer fit when it grows;
    here the keys in a cache remain valid. Left out of longrope: the paper's first tokens, which keep the trained
    theta_m.

    Choose it for decoders and encoders at the trained length: there is nothing to train and hardly any cost, and most
    current models use it, so you can fine-tune their weights.

    Choose another scheme, or a `scaling`, beyond the trained length: README's language model loses two bits per byte at
    8 times the length, where biases hold up.
    """

    reals = True

    def __init__(
        self,
        *,
        base: float = 10000.0,
        layout: str = "half",
        fraction: float = 1.0,
        part: str = "first",
        values: str = "still",
        scaling: str = "none",
        factor: float = Stretch.factor,
        trained_length: int = Stretch.trained_length,
        target_length: int = Stretch.target_length,
        beta_fast: float = Stretch.beta_fast,
        beta_slow: float = Stretch.beta_slow,
        truncate: bool = Stretch.truncate,
        attention_factor: float = Stretch.attention_factor,
        kept: float = Stretch.kept,
        short_factors: tuple[float, ...] = Stretch.short_factors,
        long_factors: tuple[float, ...] = Stretch.long_factors,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_choice("rope.layout", layout, LAYOUTS)
        check_choice("rope.part", part, PARTS)
        check_choice("rope.values", values, VALUES)
        if not 0 < fraction <= 1:
            raise ValueError(f"rope.fraction must be in (0, 1], got {fraction}")
        check_range("rope.base", base, 1)
        self.base, self.layout, self.part, self.values = base, layout, part, values
        self.head_dim = dims.head_dim
        self.turned = round(dims.head_dim * fraction)
        if self.turned < 2 or self.turned % 2:
            raise ValueError(
                f"rope turns pairs of dimensions: head_dim * fraction must be even and at least 2, got "
                f"{dims.head_dim} * {fraction} = {self.turned}"
            )
        stretch = Stretch(
            base, self.turned, factor, trained_length, target_length, beta_fast, beta_slow, truncate,
            attention_factor, kept, tuple(short_factors), tuple(long_factors),
        )  # fmt: skip
        self.scaled = scaled(scaling, stretch)
        self.shift_invariant = values != "turned"
        self.overridden = type(self).overridden - VALUES[values]

    def _rotate(self, x_TH, positions_T, *, times=1.0, back=False):
        R, H = self.turned, x_TH.shape[-1]
        sin, cos = positions.waves(positions_T, self.base, R, self.scaled.slower)
        sin, cos = -times * sin if back else times * sin, times * cos
        if self.part == "last":
            turned = rotated(x_TH[:, H - R :], sin, cos, self.layout)
            return jnp.concatenate([x_TH[:, : H - R], turned], -1)
        return jnp.concatenate([rotated(x_TH[:, :R], sin, cos, self.layout), x_TH[:, R:]], -1)

    def _turn(self, x_TH, positions_T, features_T):
        return self._rotate(x_TH, positions_T, times=self.scaled.attention)

    def value(self, v_SH, positions_S, features_S):
        """Turn the value like a key."""
        if v_SH.shape[-1] < self.turned:
            raise ValueError(
                f"rope.values={self.values} turns {self.turned} dimensions, but values have {v_SH.shape[-1]}"
            )
        return self._rotate(v_SH, positions_S)

    def finish(self, out_TH, positions_T, features_T):
        """Turn the output back."""
        return self._rotate(out_TH, positions_T, back=True)
