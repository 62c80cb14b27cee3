"""A decoder-only Transformer."""

from flax import nnx
from jaxtyping import Array, Float, Int, Num

from relpos.nn.cache import Cache
from relpos.nn.earlier import Earlier
from relpos.nn.token_model import TokenModel
from relpos.places import Placed


class Decoder(TokenModel):
    """Tokens to the logits of each next token, [B, T, V]."""

    causal = True
    has_logits = True

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

        `caches` come from `init_caches` or the previous call; the other arguments are as in `__call__`. Without
        positions, the tokens continue after those in the caches; all tokens of a row but padding are one document.

        Raises:
          ValueError: the model's `places` depend on all tokens of a row, and no positions are given.
        """
        placed = Placed(positions, order, embed_positions)
        self._check_given(placed)
        x_BTD, caches = self.stack.decode(self.embed(tokens_BT), caches, placed, segments=segments)
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
        `earlier` is from `init_earlier` or the call for the previous segment; the other arguments are as in `__call__`.
        From segment to segment, a document keeps its id, and `embed_positions` continue.

        Raises:
          ValueError: as in `decode`, and without `embed_positions` where an encoding adds to the input.
        """
        self._check_given(Placed(embed_positions=embed_positions))
        x_BTD, earlier = self.stack.read_on(
            self.embed(tokens_BT), earlier, embed_positions=embed_positions, segments=segments,
            key=key,
        )  # fmt: skip
        return self.embed.logits(self.norm(x_BTD)), earlier

    def _check_given(self, placed: Placed) -> None:
        """Check that a call after earlier tokens gives positions, if `places` would need those tokens."""
        if not self.places.are_consecutive and all(given is None for given in placed):
            raise ValueError(
                f"the positions of {type(self.places).__name__} depend on all tokens of a row, and a cache or an "
                "earlier segment does not hold them: pass the positions that its `begin` and `follow` return, as "
                "relpos.nn.generate does"
            )

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
        """Return empty earlier inputs for all layers, see `Stack.init_earlier`."""
        return self.stack.init_earlier(batch, length)
