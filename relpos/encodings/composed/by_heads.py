"""Heads of different kinds in one layer."""

from flax import nnx

from relpos.encodings.base import Encoding


class ByHeads(Encoding, fills_slots=False):
    """One encoding for the first heads, another for the next ones, and so on.

    Each part attends separately with its heads, so that none pays for what others compute. With grouped queries, the
    query heads of each key head must all be of one kind, or the heads of a kind must all share one key head.
    """

    def __init__(self, *parts: tuple[Encoding, int]):
        """Join pairs of an encoding and the number of heads that it was made for.

        Raises:
          ValueError: a part has no heads, has heads of several kinds itself or adds to the model's input, or the sizes
            of heads differ.
        """
        told = " / ".join(f"{type(part).__name__}: {count}" for part, count in parts)
        for part, count in parts:
            if count < 1:
                raise ValueError(f"{told}: a part needs at least one head")
            if part.of_heads:
                raise ValueError(f"{told}: a part cannot have heads of several kinds itself")
            if part.adds_to_input():
                raise ValueError(
                    f"{told}: {type(part).__name__} adds positions to the model's input, which all heads see"
                )
        made = [part for part, _ in parts]
        self.kinds = nnx.List(made)
        self.counts = tuple(count for _, count in parts)
        self.shift_invariant = all(part.shift_invariant for part in made)
        self.causal_only = any(part.causal_only for part in made)
        self.needs_tokens = any(part.needs_tokens for part in made)
        sizes = {part.head_dim for part in made if part.head_dim is not None}
        if len(sizes) > 1:
            raise ValueError(f"{told}: made for heads of different sizes, {sorted(sizes)}")
        self.head_dim = sizes.pop() if sizes else None
        lengths = [part.max_length for part in made if part.max_length is not None]
        self.max_length = min(lengths, default=None)

    @property
    def of_heads(self) -> tuple[tuple[Encoding, int], ...]:
        """The parts, with the number of heads of each."""
        return tuple(zip(self.kinds, self.counts, strict=True))

    @property
    def reads_positions(self) -> bool:
        """Whether any part reads positions."""
        return any(part.reads_positions for part in self.kinds)

    @property
    def keeps_key_features(self) -> bool:
        """Whether a cache must keep the features of keys for any part."""
        return any(part.keeps_key_features for part in self.kinds)
