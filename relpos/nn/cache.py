"""The key/value cache of one attention layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """What a layer remembers of the tokens before.

    Rows are ragged: each has its own length, and padding never enters. With a window, the capacity may be as small
    as the window: the slots are then a ring.

    Attributes:
      key: as the encoding's `key` leaves them (rotated), [B, C, K, H]; C is the capacity.
      value: [B, C, K, H].
      positions: each slot's position, [B, C].
      written: which slots hold a token, [B, C].
      features: the encoding's features of each token, a tree of [B, C, N, ...].
      state: what the encoding carries on from token to token, a tree of [B, N, ...].
      length: how many tokens each row has seen, [B].
      tables: the encoding's vectors for each distance, evaluated once, [N, C, H]; None where it needs none.
    """

    key: Float[Array, "B C K H"]
    value: Float[Array, "B C K H"]
    positions: Int[Array, "B C"]
    written: Bool[Array, "B C"]
    features: Any
    state: Any
    length: Int[Array, "B"]
    tables: Any = None

    @property
    def capacity(self) -> int:
        """Return C."""
        return self.positions.shape[-1]

    def next_positions(self, valid_BT: Bool[Array, "B T"]) -> Int[Array, "B T"]:
        """Return the positions of the coming tokens; padding gets that of the token before it."""
        return self.length[:, None] + jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32) - 1

    def append(
        self,
        key: Float[Array, "B T K H"],
        value: Float[Array, "B T K H"],
        features: Any,
        state: Any,
        valid_BT: Bool[Array, "B T"],
    ) -> "Cache":
        """Write tokens behind the ones there are; where the ring is full the oldest make room."""
        positions_BT = self.next_positions(valid_BT)
        length = self.length + valid_BT.sum(1, dtype=jnp.int32)
        # Of more tokens than slots only the last ones are kept: no slot is written twice.
        kept_BT = valid_BT & (positions_BT >= length[:, None] - self.capacity)
        slots_BT = jnp.where(kept_BT, positions_BT % self.capacity, self.capacity)

        def write(old, new):
            return jax.vmap(lambda o, n, s: o.at[s].set(n, mode="drop"))(old, new, slots_BT)

        return Cache(
            key=write(self.key, key.astype(self.key.dtype)),
            value=write(self.value, value.astype(self.value.dtype)),
            positions=write(self.positions, positions_BT),
            written=write(self.written, jnp.ones_like(valid_BT)),
            features=jax.tree.map(write, self.features, features),
            state=state,
            length=length,
            tables=self.tables,
        )

    def take(self, rows: Int[Array, "R"]) -> "Cache":
        """Return the cache of the given batch rows: beams reordered, a prompt repeated.

        Caches of scanned layers have a layer axis before the batch, which stays as it is.
        """
        of_rows = dataclasses.replace(self, tables=None)
        taken = jax.tree.map(lambda x: jnp.take(x, rows, axis=self.length.ndim - 1), of_rows)
        return dataclasses.replace(taken, tables=self.tables)
