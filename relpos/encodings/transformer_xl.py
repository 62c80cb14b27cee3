"""A vector for each distance, projected from sinusoids of the distance."""

import jax.numpy as jnp
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims, Encoding, PerHead, normal
from relpos.registry import check_range


class TransformerXL(Encoding):
    """logit = [(q_i + u) . k_j + (q_i + v) . (W_R R[d])] / sqrt(H),  R[d] = [sin(d theta), cos(d theta)].

    Dai et al. 2019, "Transformer-XL", arXiv:1901.02860, sec. 3.3; theta_m = base^(-2m/D). Each head of each layer has
    its own W_R [D, H]. u and v are [H] per head, shared by the layers unless `untied`, as in the public code's large
    models. `clamp` > 0 clips d to +-clamp ("clamp_len"). The paper's other half, the memory of earlier segments, is
    `relpos.nn.Earlier`, for any scheme.

    Choose it for texts that are read segment by segment, or to continue training Transformer-XL and XLNet models.
    Vectors are projected from waves of the distance, so that every distance has one; on SCAN's longer commands it is
    nearly as good as `rope`.

    Choose another where speed matters: a vector for every distance, without limit, is expensive, most of all for
    scattered positions. `clamp` sets a limit.
    """

    reals = True

    def __init__(
        self,
        *,
        base: float = 10000.0,
        clamp: int = 0,
        untied: bool = False,
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        check_range("transformer_xl.clamp, 0 for none,", clamp, 0)
        if dims.features % 2:
            raise ValueError(
                f"transformer_xl needs an even width for its sines and cosines, got {dims.features}"
            )
        check_range("transformer_xl.base", base, 1)
        N, D, H = dims.num_heads, dims.features, dims.head_dim
        self.base, self.head_dim, self.width = base, H, D
        self.constant_beyond = clamp or None
        self.kernel = PerHead(normal(rngs, D**-0.5, N, D, H))
        self.u, self.v = (PerHead(jnp.zeros((N, H)), shared_by_layers=not untied) for _ in range(2))

    def query(self, q_TH, positions_T, features_T):
        """Return q + u, for the products with keys."""
        return q_TH + self.u[...][None]

    def vector_query(self, q_TH, positions_T, features_T):
        """Return q + v, for the products with the vectors of distances."""
        return (q_TH + self.v[...][None]).astype(q_TH.dtype)

    def key_vectors(self, d):
        """Return W_R R[d]."""
        if self.constant_beyond is not None:
            d = jnp.clip(d, -self.constant_beyond, self.constant_beyond)
        sin, cos = positions.waves(d, self.base, self.width)
        of_sines, of_cosines = jnp.split(self.kernel[...], 2)
        return sin @ of_sines + cos @ of_cosines

    def factored_query(self, q_TH, positions_T):
        """Return [w_c sin(i theta) - w_s cos(i theta), w_s sin(i theta) + w_c cos(i theta)],  (w_s, w_c) = W_R^T q."""
        of_sines, of_cosines = jnp.split(q_TH @ self.kernel[...].T, 2, -1)
        sin, cos = positions.waves(positions_T, self.base, self.width)
        parts = [of_cosines * sin - of_sines * cos, of_sines * sin + of_cosines * cos]
        return jnp.concatenate(parts, -1)

    def factored_key(self, positions_S):
        """Return [sin(j theta), cos(j theta)]: sin((i - j) theta) and cos((i - j) theta) are sums of products."""
        return jnp.concatenate(positions.waves(positions_S, self.base, self.width), -1)
