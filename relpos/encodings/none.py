"""No positions: NoPE."""

from relpos.encodings.base import Encoding


class NoPositions(Encoding):
    """logit = q . k / sqrt(H): only the causal mask tells order.

    Kazemnejad et al. 2023, "The Impact of Positional Encoding on Length Generalization in Transformers",
    arXiv:2305.19466.
    """

    axes = None
