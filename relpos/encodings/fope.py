"""Rotations by mixtures of many frequencies."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims, PerKeyHead, PerKeyHeadConstant
from relpos.encodings.rotations.pairs import Rotation, turning_often
from relpos.registry import check_range

MOST_GAIN = 1000


class FoPE(Rotation):
    """M(i) q_i . M(j) k_j, where M turns and stretches pair m by  cos_m = cos(i theta) C,  sin_m = sin(i theta) S.

    Hua et al. 2024, "Fourier Position Embedding", arXiv:2412.17739, sec. 4 and the authors' code. The frequencies theta
    are those of base^(-2m/H) that are at least 2 pi / L, where L is the trained length, 512 in the paper. The other
    pairs, which do not complete a turn in training, stay as they are. C and S are [F, F] for the F pairs that turn: the
    identity plus random numbers of variance `gain`^2 / F (0.3 in the smallest of the paper's models, 0.6 in the
    largest). Each key head has its own C and S, for its queries and its keys. They are fixed and the same in every
    layer, as in Intern-S1-Pro, or `learned` separately in each layer.

    The logit is not a function of i - j. The authors' code mixes into H/4 pairs at most, and fills sin with 1 for the
    pairs that should stay as they are, which turns them and doubles their product. Here sin is 0 for them, as in the
    paper.

    Choose it in place of `rope` for rows longer than those of training: pairs that never completed a turn in training
    stay as they are, and frequencies are mixed. The paper finds perplexity more stable there.

    Choose another where rows may begin at any position, since it is not a function of i - j, and where the trained
    length is not known beforehand.
    """

    reals = True
    shift_invariant = False

    def __init__(
        self,
        *,
        trained_length: int = 512,
        gain: float = 0.3,
        learned: bool = False,
        base: float = 10000.0,
        layout: str = "half",
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        super().__init__("fope", dims, base, layout)
        check_range("fope.gain", gain, 0, MOST_GAIN)
        F = turning_often("fope.trained_length", trained_length, base, dims.head_dim)
        self.turning = F

        # Fixed matrices are the same in every model, so that its parameters alone determine what it computes, whether
        # float64 is enabled or not.
        keys = (rngs.params(), rngs.params()) if learned else jax.random.split(jax.random.key(0))
        kind = PerKeyHead if learned else PerKeyHeadConstant
        shape = (dims.num_kv_heads, F, F)
        drawn = (jax.random.normal(key, shape, jnp.float32).astype(float) for key in keys)
        self.sin, self.cos = (kind(jnp.eye(F)[None] + gain * F**-0.5 * x) for x in drawn)

    def _waves(self, positions_T, features_T):
        F, H = self.turning, self.head_dim
        sin_TM, cos_TM = positions.waves(positions_T, self.base, H)
        with jax.default_matmul_precision("highest"):
            sin_TF, cos_TF = sin_TM[:, :F] @ self.sin[...], cos_TM[:, :F] @ self.cos[...]
        still = ((0, 0), (0, H // 2 - F))
        return jnp.pad(sin_TF, still), jnp.pad(cos_TF, still, constant_values=1)
