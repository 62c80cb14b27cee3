"""No positions: NoPE."""

from relpos.encodings.base import Encoding


class NoPositions(Encoding):
    """logit = q . k / sqrt(H): only the causal mask depends on order.

    Kazemnejad et al. 2023, "The Impact of Positional Encoding on Length Generalization in Transformers",
    arXiv:2305.19466.

    Choose it as the baseline that a scheme has to beat, or for some of the layers next to another scheme
    ("rope*3,none"). The paper finds decoders without positions ahead on longer examples of algorithmic tasks.

    Choose another for encoders, for which a row without positions is a bag of tokens, and for small models: README's
    language model is far worse with it at the trained length.
    """

    axes = None
