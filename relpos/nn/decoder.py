"""A decoder-only Transformer."""

from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos.nn.cache import Cache
from relpos.nn.earlier import Earlier
from relpos.nn.placing import check_given
from relpos.nn.token_model import LogitsModel
from relpos.places import Placed


class Decoder(LogitsModel):
    """Tokens to the logits of each next token."""

    causal = True

    def decode(
        self,
        tokens_BT: Int[Array, "B T"],
        caches: tuple[Cache, ...],
        *,
        positions: Num[Array, "B T *axes"] | None = None,
        order: Num[Array, "B T"] | None = None,
        embed_positions: Num[Array, "B T *axes"] | None = None,
        segments: Int[Array, "B T"] | None = None,
    ) -> tuple[Float[Array, "B T V"], tuple[Cache, ...]]:
        """Return the next-token logits for tokens that follow those in the caches, and the new caches.

        Args:
          tokens_BT: token ids, of a prompt or of one token a row.
          caches: from `init_caches` or the previous call.
          positions: as in `__call__`, as are the next three; None: they continue after the tokens in the caches.
          order: what causality and windows use.
          embed_positions: the positions that are added to the input.
          segments: 0 is padding; all other tokens of a row are one document.
        """
        given = Placed(positions, order, embed_positions)
        check_given(self.places, given)
        x_BTD, caches = self.stack.decode(
            self.embed(tokens_BT), caches, segments=segments, **given._asdict()
        )
        return self.embed.logits(self.norm(x_BTD)), caches

    def read_on(
        self,
        tokens_BT: Int[Array, "B T"],
        earlier: tuple[Earlier, ...],
        *,
        embed_positions: Num[Array, "B T *axes"] | None = None,
        segments: Int[Array, "B T"] | None = None,
        key: Array | None = None,
    ) -> tuple[Float[Array, "B T V"], tuple[Earlier, ...]]:
        """Return the logits of the next segment of a text, and what the segment after it needs.

        All layers also see their last M inputs of the segments before (Transformer-XL, arXiv:1901.02860, sec. 3.2).

        Args:
          tokens_BT: token ids.
          earlier: from `init_earlier` or the call for the previous segment.
          embed_positions: the positions that are added to the input, continued from segment to segment.
          segments: ids of packed documents; a document that continues keeps its id.
          key: a random key, which switches dropout on.
        """
        check_given(self.places, Placed(None, None, embed_positions))
        x_BTD, earlier = self.stack.read_on(
            self.embed(tokens_BT), earlier, embed_positions=embed_positions, segments=segments,
            key=key,
        )  # fmt: skip
        return self.embed.logits(self.norm(x_BTD)), earlier

    def apart(self) -> "Decoder":
        """Return a copy to decode in a loop, see `Stack.apart`."""
        alike = nnx.merge(*nnx.split(self))
        alike.stack = self.stack.apart()
        return alike

    def init_caches(
        self, batch: int, max_length: int, *, positions: Num[Array, "B T *axes"] | None = None
    ) -> tuple[Cache, ...]:
        """Return empty caches for all layers, see `Stack.init_caches`."""
        return self.stack.init_caches(batch, max_length, positions=positions)

    def init_earlier(self, batch: int, length: int) -> tuple[Earlier, ...]:
        """Return the earlier inputs of all layers before the first segment: none, see `Stack.init_earlier`."""
        return self.stack.init_earlier(batch, length)
