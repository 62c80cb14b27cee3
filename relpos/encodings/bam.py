"""A bias that is a power of the distance; a negative exponent favours distant tokens."""

import jax.numpy as jnp
from flax import nnx

from relpos.encodings.alibi import paper_slopes
from relpos.encodings.base import Dims, Encoding, PerHead

EPSILON = 1e-5


class BAM(Encoding):
    """b[d] = -(|j - i - mu| + 1e-5)^beta e^alpha,  j - i = -d,  mu = e^l - e^-l.

    Bianchessi, Aguirre, Barros, Kupssinskü 2026, "Bayesian Attention Mechanism: A Probabilistic Framework for
    Positional Encoding and Context Length Extrapolation", arXiv:2505.22842: the generalized Gaussian prior, GGD-BAM, as
    in the authors' code. Each head has its own alpha and beta, which start as ALiBi: alpha as the logarithm of its
    slope, beta as 1. mu is 0, as in the paper's experiments; with `location` l is learned, starting at 0. With
    `scale_inside` the bias is -(|j - i - mu| e^alpha + 1e-5)^beta, as in the code's model with scalable softmax. Each
    layer has its own parameters, which is how the paper counts them; with `per_layer=False` all layers share one set,
    the default of the code. Scalable softmax itself is left out.

    Choose it as an ALiBi whose shape is learned: a head may look far back, or away from near tokens. The paper
    retrieves passkeys at 500 times the trained length.

    Choose another to reproduce the paper's models with scalable softmax, which is left out. Without `location` the past
    and the future are treated alike.
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
        """Return the logarithm of the prior, up to a constant."""
        x = -d
        if self.location is not None:
            location = self.location[...]
            x = x - (jnp.exp(location) - jnp.exp(-location))
        scale, beta = jnp.exp(self.alpha[...]), self.beta[...]
        if self.scale_inside:
            return -((jnp.abs(x) * scale + EPSILON) ** beta)
        return -((jnp.abs(x) + EPSILON) ** beta) * scale
