"""Transformers that see both sides of every token."""

from relpos.nn.token_model import TokenModel


class Encoder(TokenModel):
    """Tokens to vectors, [B, T, D]."""


class TokenEncoder(TokenModel):
    """Tokens to the logits of the token at each place, [B, T, V], for masked language models and the like."""

    has_logits = True
