"""Fixed absolute positions, added to the input."""

import jax.numpy as jnp
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims, Encoding
from relpos.registry import check_range


class Sinusoidal(Encoding):
    """x_i + PE[i],  PE[i, 2m] = sin(i / base^(2m/D)),  PE[i, 2m+1] = cos(i / base^(2m/D)).

    Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, sec. 3.5.

    Choose it as the absolute baseline, or where attention itself must stay as it is: it costs one addition before the
    first layer.

    Choose another for rows longer than those of training: it gets hardly any of SCAN's longer commands right, while
    relative schemes get most of them (experiments/scan_cutoffs).
    """

    shift_invariant = False
    reals = True

    def __init__(self, *, base: float = 10000.0, dims: Dims, rngs: nnx.Rngs):
        check_range("sinusoidal.base", base, 1)
        self.base = base

    def embed(self, x_TD, positions_T):
        """Add PE, in float32."""
        D = x_TD.shape[-1]
        waves = jnp.stack(positions.waves(positions_T, self.base, D), -1)
        waves = waves.reshape(positions_T.shape[0], -1)
        return (x_TD + waves[:, :D]).astype(x_TD.dtype)
