"""A bias that depends on the logits of all heads."""

import jax
import jax.numpy as jnp
from flax import nnx

from relpos import encodings
from relpos.attention.slots import SLOTS
from relpos.encodings.base import Dims, Encoding, PerHead
from relpos.registry import check_range

MOST_HIDDEN = 256
SLOPE = 0.01  # of the leaky ReLU below 0, as in PyTorch


class DAPE(Encoding):
    """logits = A + B + f([A; B]),  f = W_2 leaky_relu(W_1 [A; B] + c_1) + c_2, for each pair of tokens, over the heads.

    Zheng et al. 2024, "DAPE: Data-Adaptive Positional Encoding for Length Extrapolation", arXiv:2405.14722, sec. 3. A
    [N] are all heads' scaled products of query and key, and B [N] their biases from the scheme `bias`, which may be any
    scheme that only adds a bias (kerple, alibi and fire in the paper), with its default options. f is a network
    2N -> hidden -> N; each layer has its own, initialised like PyTorch's layers.

    Choose it for rows longer than those of training where speed does not matter: the paper trains on 128 tokens and
    beats the static biases at 8192.

    Choose another otherwise: all heads of a block are computed together, which makes it one of the slowest schemes in
    docs/performance.md, and GPU kernels do not support it.
    """

    def __init__(self, *, bias: str = "kerple", hidden: int = 32, dims: Dims, rngs: nnx.Rngs):
        check_range("dape.hidden", hidden, 1, MOST_HIDDEN)
        inner = encodings.scheme(bias)(dims=dims, rngs=rngs) if bias in encodings.names() else None
        filled = inner.overridden & SLOTS if inner else frozenset()
        if inner is None or not filled or filled - {"bias", "block_bias"}:
            raise ValueError(
                f"dape.bias must be a scheme that only adds a bias, such as kerple, alibi, fire or t5, got {bias!r}"
            )
        self.inner, self.constant_beyond = inner, inner.constant_beyond
        self.shift_invariant, self.causal_only = inner.shift_invariant, inner.causal_only
        self.axes, self.reals = inner.axes, inner.reals
        N = dims.num_heads
        # torch.nn.Linear's initialisation, U(-1/sqrt(fan in), 1/sqrt(fan in)).
        uniform = lambda bound, *shape: jax.random.uniform(  # noqa: E731
            rngs.params(), shape, minval=-bound, maxval=bound
        )
        into, out_of = (2 * N) ** -0.5, hidden**-0.5
        self.of_logits, self.of_biases = (PerHead(uniform(into, N, hidden)) for _ in range(2))
        self.hidden_offset = nnx.Param(uniform(into, hidden))
        self.output = PerHead(uniform(out_of, N, hidden))
        self.offset = PerHead(uniform(out_of, N))

    def bias(self, d):
        """Return B."""
        return self.inner.bias(d)

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        """Return B, if it depends on the positions themselves."""
        return self.inner.block_bias(q_positions, k_positions, q_features, k_features)

    def mix(self, logits_NCK, bias_NCK):
        """Return A + B + f([A; B])."""
        dtype = logits_NCK.dtype
        bias_NCK = bias_NCK.astype(dtype)
        kernel = jnp.concatenate([self.of_logits[...], self.of_biases[...]]).astype(dtype)
        both = jnp.concatenate([logits_NCK, bias_NCK])
        column = lambda x: x[...].astype(dtype)[:, None, None]  # noqa: E731
        hidden = jnp.tensordot(kernel.T, both, 1) + column(self.hidden_offset)
        hidden = jax.nn.leaky_relu(hidden, SLOPE)
        changed = jnp.tensordot(self.output[...].astype(dtype), hidden, 1) + column(self.offset)
        return logits_NCK + bias_NCK + changed
