"""A bias without parameters: the dot product of sinusoidal positions."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims, Encoding, PerHeadConstant
from relpos.registry import check_range

MOST_WIDTH = 2**12


class Sandwich(Encoding):
    """b[d] = N / (8h) sum_m cos(d / base^(2m/D)),  m = 0 ... D/2 - 1,  for head h = 1 ... N;  D is `width`.

    Chi, Fan, Rudnicky, Ramadge 2023, "Dissecting Transformer Length Extrapolation via the Lens of Receptive Field
    Analysis", arXiv:2212.10356, and the Python code in its appendix: D = 128 whatever the head size. Nothing is
    trained. With `from_one` m runs over 1 ... D/2 and D/2 is subtracted from the sum, as in NVIDIA NeMo, where D is the
    head size.

    Choose it as a bias with nothing to train that falls more slowly than ALiBi's: the paper finds that it uses tokens
    farther away on longer rows.

    Choose another where heads should learn which distances they look at: the heads' biases differ only by a factor.
    """

    reals = True

    def __init__(
        self,
        *,
        width: int = 128,
        base: float = 10000.0,
        from_one: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        if not 2 <= width <= MOST_WIDTH or width % 2:
            raise ValueError(f"sandwich.width must be even and from 2 to {MOST_WIDTH}, got {width}")
        check_range("sandwich.base", base, 1)
        self.width, self.base, self.from_one = width, base, from_one
        N = dims.num_heads
        self.size = PerHeadConstant(jnp.array([N / (8 * h) for h in range(1, N + 1)], jnp.float32))

    def _waves(self, positions_T):
        """Return the sines and cosines of d / base^(2m/D)."""
        M = self.width // 2
        slower = (self.base ** (1 / M),) * M if self.from_one else ()
        return positions.waves(positions_T, self.base, self.width, slower)

    @property
    def _fixed(self):
        """The head's factor N / (8h), without a gradient, which would be inexact in the type of the queries."""
        return jax.lax.stop_gradient(self.size[...])

    def bias(self, d):
        """Return the sum of cosines, scaled."""
        total = self._waves(d)[1].sum(-1)
        return self._fixed * (total - self.width / 2 if self.from_one else total)

    def factored_query(self, q_TH, positions_T):
        """Return the sines and cosines of the query's position, scaled."""
        return self._fixed * self._factors(positions_T, -self.width / 2)

    def factored_key(self, positions_S):
        """Return the sines and cosines of the key's position: cos(x - y) = cos x cos y + sin x sin y."""
        return self._factors(positions_S, 1.0)

    def _factors(self, positions_T, last):
        sines_TM, cosines_TM = self._waves(positions_T)
        constant = [jnp.full_like(sines_TM[:, :1], last)] if self.from_one else []
        return jnp.concatenate([sines_TM, cosines_TM, *constant], -1)
