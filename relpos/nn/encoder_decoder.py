"""An encoder-decoder Transformer."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from relpos.nn.cache import Cache
from relpos.nn.cross_attention import Memory
from relpos.nn.embedding import Embedding
from relpos.nn.stack import EncodingOptions, Stack, StackConfig


@dataclasses.dataclass(frozen=True)
class EncoderDecoderConfig:
    """The sizes of an encoder-decoder.

    Attributes:
      source_vocab: V of the source.
      target_vocab: V of the target.
      encoder: the sizes of the encoder.
      decoder: the sizes of the decoder, of the same width.
      cross_encoding: the scheme of cross-attention, "none" in most papers.
      share_embeddings: one table for both languages, which then have one vocabulary.
    """

    source_vocab: int
    target_vocab: int
    encoder: StackConfig
    decoder: StackConfig
    cross_encoding: str = "none"
    share_embeddings: bool = False

    def __post_init__(self):
        if self.encoder.features != self.decoder.features:
            raise ValueError(
                f"encoder and decoder must have one width, got features={self.encoder.features} and "
                f"{self.decoder.features}"
            )
        if self.share_embeddings and self.source_vocab != self.target_vocab:
            raise ValueError(
                f"one table of embeddings needs one vocabulary, got {self.source_vocab} and {self.target_vocab} tokens"
            )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decoding:
    """How far the decoder has come.

    Attributes:
      caches: of what it wrote.
      memories: of the source, one row for all of its beams.
    """

    caches: tuple[Cache, ...]
    memories: dict[str, Memory]


class EncoderDecoder(nnx.Module):
    """Source tokens and the target so far to the logits of each next target token."""

    def __init__(
        self,
        config: EncoderDecoderConfig,
        *,
        encoding_options: EncodingOptions | None = None,
        rngs: nnx.Rngs,
    ):
        """Make the model.

        Args:
          config: the sizes.
          encoding_options: scheme name -> its options.
          rngs: for the initial parameters.
        """
        self.config = config
        self.target = Embedding(config.target_vocab, config.decoder, rngs)
        self.source = (
            None
            if config.share_embeddings
            else Embedding(config.source_vocab, config.encoder, rngs)
        )
        self.encoder = Stack(
            config.encoder, causal=False, encoding_options=encoding_options, rngs=rngs
        )
        self.encoder_norm = nnx.RMSNorm(
            config.encoder.features, dtype=jnp.dtype(config.encoder.dtype), rngs=rngs
        )
        self.decoder_norm = nnx.RMSNorm(
            config.decoder.features, dtype=jnp.dtype(config.decoder.dtype), rngs=rngs
        )
        self.decoder = Stack(
            config.decoder, causal=True, encoding_options=encoding_options,
            cross_encoding=config.cross_encoding, rngs=rngs,
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
        x, _ = self.encoder(embed(source_BS), segments=segments, key=key)
        return self.encoder_norm(x)

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
          target_BT: token ids from the begin mark on.
          source_segments: ids of pairs packed into a row, 0 is padding.
          target_segments: likewise; a target sees the source of its own id.
          key: switches dropout on.
        """
        of_encoder, of_decoder = (None, None) if key is None else jax.random.split(key)
        encoded = self.encode(source_BS, source_segments, key=of_encoder)
        memories = self.decoder.memories(encoded, source_segments)
        x, _ = self.decoder(
            self.target(target_BT), segments=target_segments, memories=memories, key=of_decoder
        )
        return self.target.logits(self.decoder_norm(x))

    def apart(self) -> "EncoderDecoder":
        """Return a copy as loops of decoding want it, see `Stack.apart`."""
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
        """Encode a source, for up to max_length tokens of target in each of `beams` rows a source."""
        return Decoding(
            self.decoder.init_caches(source_BS.shape[0] * beams, max_length),
            self.decoder.memories(self.encode(source_BS, segments), segments),
        )

    def step(
        self, tokens_B1: Int[Array, "B 1"], decoding: Decoding
    ) -> tuple[Float[Array, "B 1 V"], Decoding]:
        """Return the logits of the tokens after these, and the next state."""
        x, caches = self.decoder(
            self.target(tokens_B1), caches=decoding.caches, memories=decoding.memories
        )
        logits = self.target.logits(self.decoder_norm(x))
        return logits, Decoding(caches or (), decoding.memories)
