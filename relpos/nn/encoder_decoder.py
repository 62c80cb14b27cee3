"""An encoder-decoder Transformer."""

from typing import NamedTuple

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.nn.cache import Cache
from relpos.nn.cross_attention import Memory
from relpos.nn.embedding import Embedding
from relpos.nn.layer_encodings import EncodingOptions
from relpos.nn.norms import make_final_norm
from relpos.nn.stack import Stack
from relpos.nn.transformer_config import TransformerConfig


class Decoding(NamedTuple):
    """The state of the decoder between two steps."""

    caches: tuple[Cache, ...]  # of the target so far
    memories: dict[str, Memory]  # of the source, one row for all of its beams


class EncoderDecoder(nnx.Module):
    """Source tokens and the target so far to the logits of each next target token."""

    def __init__(
        self,
        *,
        encoder: TransformerConfig,
        decoder: TransformerConfig,
        source_vocab: int,
        target_vocab: int,
        cross_encoding: str = "none",
        share_embeddings: bool = False,
        encoding_options: EncodingOptions | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the model.

        Args:
          encoder: the sizes and the kind of the encoder's layers.
          decoder: likewise, with the same width; also determines what computes the logits.
          source_vocab: V of the source.
          target_vocab: V of the target.
          cross_encoding: the scheme of cross-attention, "none" in most papers.
          share_embeddings: whether source and target have one vocabulary and one table of embeddings.
          encoding_options: scheme name -> its options.
          rngs: for the initial parameters.

        Raises:
          ValueError: widths differ, or vocabularies meant to share embeddings do.
        """
        if encoder.features != decoder.features:
            raise ValueError(
                f"encoder and decoder must agree in width, got features={encoder.features} and {decoder.features}"
            )
        if share_embeddings and source_vocab != target_vocab:
            raise ValueError(
                f"one table of embeddings needs one vocabulary, got {source_vocab} and {target_vocab} tokens"
            )
        self.target = Embedding(target_vocab, decoder, rngs, has_logits=True)
        self.source = (
            None if share_embeddings else Embedding(source_vocab, encoder, rngs, has_logits=False)
        )
        self.encoder = Stack(encoder, causal=False, encoding_options=encoding_options, rngs=rngs)
        self.encoder_norm = make_final_norm(encoder, rngs)
        self.decoder_norm = make_final_norm(decoder, rngs)
        self.decoder = Stack(
            decoder, causal=True, encoding_options=encoding_options, cross_encoding=cross_encoding,
            rngs=rngs,
        )  # fmt: skip

    def encode(
        self,
        source_BS: Int[Array, "B S"],
        segments: Int[Array, "B S"] | None = None,
        *,
        key: Array | None = None,
    ) -> Float[Array, "B S D"]:
        """Return the vectors of a source; segment id 0 is padding."""
        embed = self.target if self.source is None else self.source
        return self.encoder_norm(self.encoder(embed(source_BS), segments=segments, key=key))

    def __call__(
        self,
        source_BS: Int[Array, "B S"],
        target_BT: Int[Array, "B T"],
        *,
        source_segments: Int[Array, "B S"] | None = None,
        target_segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "B T V"]:
        """Return the logits of each next target token.

        Args:
          source_BS: token ids.
          target_BT: token ids, from the begin mark on.
          source_segments: ids of pairs that are packed into a row, 0 is padding.
          target_segments: likewise; a target sees the source with its own id.
          key: a random key, which switches dropout on.
        """
        of_encoder, of_decoder = (None, None) if key is None else jax.random.split(key)
        encoded = self.encode(source_BS, source_segments, key=of_encoder)
        memories = self.decoder.memories(encoded, source_segments)
        x = self.decoder(
            self.target(target_BT), segments=target_segments, memories=memories, key=of_decoder
        )
        return self.target.logits(self.decoder_norm(x))

    def apart(self) -> "EncoderDecoder":
        """Return a copy to decode in a loop, see `Stack.apart`."""
        alike = nnx.merge(*nnx.split(self))
        alike.decoder = self.decoder.apart()
        return alike

    def start(
        self,
        source_BS: Int[Array, "B S"],
        segments: Int[Array, "B S"] | None = None,
        *,
        max_length: int,
        beams: int = 1,
    ) -> Decoding:
        """Encode a source, for `beams` targets of up to max_length tokens for each of its rows."""
        return Decoding(
            self.decoder.init_caches(source_BS.shape[0] * beams, max_length),
            self.decoder.memories(self.encode(source_BS, segments), segments),
        )

    def step(
        self, tokens_B1: Int[Array, "B 1"], decoding: Decoding
    ) -> tuple[Float[Array, "B 1 V"], Decoding]:
        """Return the logits of the tokens after these, and the next state."""
        x, caches = self.decoder.decode(
            self.target(tokens_B1), decoding.caches, memories=decoding.memories
        )
        return self.target.logits(self.decoder_norm(x)), Decoding(caches, decoding.memories)
