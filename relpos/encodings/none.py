"""No positions: NoPE."""

from flax import nnx

from relpos.encodings.base import Dims, Encoding


class NoPositions(Encoding):
    """logit = q . k / sqrt(H): only the causal mask tells order.

    Kazemnejad et al. 2023, "The Impact of Positional Encoding on Length Generalization in Transformers",
    arXiv:2305.19466.
    """

    def __init__(self, *, dims: Dims, rngs: nnx.Rngs):
        pass
