"""A bias computed by a small network from the distance on a logarithmic scale."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from relpos.encodings.base import Dims, Encoding, PerHead, normal
from relpos.registry import check_choice, check_range

SPACINGS = ("log", "linear")
MOST_HIDDEN = 4096


class OffsetNetwork:
    """An MLP with ReLU and one hidden layer, of an offset along one or several axes; see `CPB`."""

    def _make(self, name, axes, dims, rngs, *, hidden, window, spacing, bound):
        """Check the options and make the network; errors name the options of the scheme `name`."""
        check_range(f"{name}.hidden", hidden, 1, MOST_HIDDEN)
        if window < 0 or window == 1:
            raise ValueError(f"{name}.window must be 0 (no window) or at least 2, got {window}")
        check_choice(f"{name}.spacing", spacing, SPACINGS)
        check_range(f"{name}.bound", bound, 0)
        self.window, self.spacing, self.bound = window, spacing, bound
        self.kernel = nnx.Param(normal(rngs, 0.02, axes, hidden))
        self.offset = nnx.Param(jnp.zeros(hidden))
        self.output = PerHead(normal(rngs, 0.02, dims.num_heads, hidden))

    def _coordinate(self, d):
        """Return u."""
        d = d.astype(float) * (8 / (self.window - 1) if self.window else 1.0)
        if self.spacing == "linear":
            return d / 8 if self.window else d
        u = jnp.sign(d) * jnp.log1p(jnp.abs(d))
        return u / math.log(8) if self.window else u

    def _network(self, *d):
        """Return the bias of offsets, given one array [n] for each axis."""
        each = zip(d, self.kernel[...], strict=True)
        hidden = sum(self._coordinate(x)[:, None] * kernel[None] for x, kernel in each)
        y = jax.nn.relu(hidden + self.offset[...][None]) @ self.output[...]
        return self.bound * jax.nn.sigmoid(y) if self.bound else y


class CPB(OffsetNetwork, Encoding):
    """b[d] = 16 sigmoid(f(u)),  u = sign(d) ln(1 + 8 |d| / (window - 1)) / ln 8,  f an MLP 1 -> hidden -> 1 with ReLU.

    Liu et al. 2022, "Swin Transformer V2: Scaling Up Capacity and Resolution", arXiv:2111.09883, sec. 3.3: continuous
    position bias, here of the distance in a row; `cpb_2d` is for images, as in the paper. u and the sigmoid are those
    of the authors' code, and `window` is the one that the model was trained with. `bound` replaces 16; with 0 there is
    no sigmoid, as in the paper's text. With `window` 0, u = sign(d) ln(1 + |d|), also as in the text. With `spacing`
    "linear", u = d / (window - 1), or d without a window. The hidden layer is shared by the heads; the output layer is
    per head and has no offset. Each layer has its own network. Weights start with standard deviation 0.02.

    Choose it for a smooth bias on longer rows: it is a network of the distance's logarithm, while a table would have
    entries that were never trained.

    Choose another where speed matters: the network is evaluated for every distance of a row, while a table needs only a
    look-up.
    """

    reals = True

    def __init__(
        self,
        *,
        hidden: int = 512,
        window: int = 128,
        spacing: str = "log",
        bound: float = 16.0,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        self._make("cpb", 1, dims, rngs, hidden=hidden, window=window, spacing=spacing, bound=bound)

    def bias(self, d):
        """Return the network's value."""
        return self._network(d)
