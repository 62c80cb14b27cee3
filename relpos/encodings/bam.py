"""A bias that is a power of the distance; a negative exponent looks away from what is near."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.alibi import paper_slopes
from relpos.encodings.base import Dims, Encoding, PerHead

EPSILON = 1e-5


class BAM(Encoding):
    """b[d] = -(|j - i - mu| + 1e-5)^beta e^alpha,  j - i = -d,  mu = e^l - e^-l.

    Bianchessi, Aguirre, Barros, Kupssinskü 2026, "Bayesian Attention Mechanism: A Probabilistic Framework for
    Positional Encoding and Context Length Extrapolation", arXiv:2505.22842: the generalized Gaussian prior, GGD-BAM, as
    in the authors' code. Each head has its own alpha and beta, which start as ALiBi: its slope and 1. mu is 0, as in
    the paper's experiments; `location`: l is learned, from 0. `scale_inside`: -(|j - i - mu| e^alpha + 1e-5)^beta, as
    the code's model with scalable softmax has it. Each layer has its own, as the paper counts parameters, or, as the
    code has by default, all share one set (`per_layer=False`). Scalable softmax is no part of it.

    Choose it as an ALiBi whose shape is learned: a head may look far, or away from what is near. The paper finds
    passkeys at 500 times the trained length.

    Choose another to repeat models of the paper that have scalable softmax, which is not here. Without `location` both
    sides are alike.
    """

    reals = True

    def __init__(
        self,
        *,
        location: bool = False,
        scale_inside: bool = False,
        per_layer: bool = True,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        self.scale_inside = scale_inside

        def parameter(values):
            return PerHead(jnp.array(values, float), shared_by_layers=not per_layer)

        N = dims.num_heads
        self.alpha = parameter(jnp.log(jnp.array(paper_slopes(N))))
        self.beta = parameter([1.0] * N)
        self.location = parameter([0.0] * N) if location else None

    def bias(self, d):
        """Return the logarithm of the prior, without its constant."""
        x = -d
        if self.location is not None:
            location = self.location[...]
            x = x - (jnp.exp(location) - jnp.exp(-location))
        scale, beta = jnp.exp(self.alpha[...]), self.beta[...]
        if self.scale_inside:
            return -((jnp.abs(x) * scale + EPSILON) ** beta)
        return -((jnp.abs(x) + EPSILON) ** beta) * scale
