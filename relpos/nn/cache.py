"""The key/value cache of one attention layer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from relpos.attention.checks import checked_number


@dataclasses.dataclass(frozen=True)
class KeysAndValues:
    """Keys and values in the layout of their products with queries."""

    keys: Float[Array, "K B S H"]
    values: Float[Array, "K B S H"]

    @property
    def key(self) -> Float[Array, "B S K H"]:
        """Return the keys by token."""
        return by_token(self.keys)

    @property
    def value(self) -> Float[Array, "B S K H"]:
        """Return the values by token."""
        return by_token(self.values)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache(KeysAndValues):
    """The keys and values of earlier tokens, and what an encoding keeps of them.

    Rows are ragged: each has its own length, and padding is never stored. With a window, the capacity may be as small
    as the window's past; the entries are then a ring buffer.

    Attributes:
      keys: [K, B, C, H], as the encoding's `key` returns them (rotated); C is the capacity. Keys that `come_along` are
        kept as the next token sees them.
      values: [K, B, C, H].
      positions: each entry's position, [B, C], or with axes [B, C, axes].
      written: which entries hold a token, [B, C].
      features: the encoding's features of each token, a tree of [B, C, heads, ...]; heads is N, K, or 1 for all.
      state: what the encoding carries from token to token, a tree of [B, heads, ...].
      length: the number of tokens appended to each row, [B].
      order: [B, C], what causality and windows use in a cache that is given positions; None in one that counts them.
      tables: the encoding's vectors for each distance, computed once, [N, C, H], or [K, ...] or [1, ...] if
        heads share them; None if it has none.
    """

    positions: Num[Array, "B C *axes"]
    written: Bool[Array, "B C"]
    features: Any
    state: Any
    length: Int[Array, "B"]
    order: Any = None
    tables: Any = None

    @property
    def capacity(self) -> int:
        """Return C."""
        return self.written.shape[-1]

    @property
    def counts(self) -> bool:
        """Whether the cache counts the positions of new tokens itself; if not, they are given."""
        return self.order is None

    def next_positions(self, valid_BT: Bool[Array, "B T"]) -> Int[Array, "B T"]:
        """Return the number of tokens before each new one; padding has the number of the last token before it."""
        return self.length[:, None] + jnp.cumsum(valid_BT, axis=1, dtype=jnp.int32) - 1

    def positions_and_order(
        self, valid_BT: Bool[Array, "B T"], positions: Any = None, order: Any = None
    ) -> tuple[Num[Array, "B T *axes"], Num[Array, "B T"] | None]:
        """Return the positions of new tokens, and their order where that differs.

        Raises:
          ValueError: positions are given to a cache that counts them, or differ in kind from those it was made for.
        """
        if self.counts:
            if positions is not None or order is not None:
                raise ValueError(
                    "this cache counts positions: pass none, or make it with init_cache(..., positions=...), with "
                    "positions like those to come"
                )
            return self.next_positions(valid_BT), None
        if positions is None:
            raise ValueError("this cache was made with positions: pass those of the new tokens too")
        at = checked_number("positions", positions, valid_BT.shape, with_axes=True)
        is_real, has_reals = map(_is_real, (at, self.positions))
        if at.shape[2:] != self.positions.shape[2:] or (is_real and not has_reals):
            raise ValueError(
                f"this cache was made for positions {self.positions.dtype}{list(self.positions.shape)}, got "
                f"{at.dtype}{list(at.shape)}: make it with positions like these"
            )
        at = at.astype(self.positions.dtype)
        if order is not None:
            rank = checked_number("order", order, valid_BT.shape, with_axes=False)
        else:
            rank = self.next_positions(valid_BT) if at.ndim > 2 else at
        if _is_real(rank) and not _is_real(self.order):
            raise ValueError(
                "an order of real numbers needs a cache made for positions of real numbers"
            )
        return at, rank.astype(self.order.dtype)

    def append(
        self,
        key: Float[Array, "B T K H"],
        value: Float[Array, "B T K H"],
        features: Any,
        state: Any,
        valid_BT: Bool[Array, "B T"],
        positions: Num[Array, "B T *axes"],
        order: Num[Array, "B T"] | None = None,
    ) -> "Cache":
        """Append tokens, at the positions from `positions_and_order`; in a full ring they replace the oldest."""
        count_BT = self.next_positions(valid_BT)
        length = self.length + valid_BT.sum(1, dtype=jnp.int32)
        # Of more tokens than entries, keep the last, so that none is written twice.
        kept_BT = valid_BT & (count_BT >= length[:, None] - self.capacity)
        slots_BT = jnp.where(kept_BT, count_BT % self.capacity, self.capacity)

        # XLA writes several entries in place, but for a single one copies the whole cache. A second, out of bounds and
        # so dropped, avoids that.
        alone = slots_BT.size == 1
        if alone:
            slots_BT = jnp.append(slots_BT, jnp.full_like(slots_BT, self.capacity), axis=1)

        def write(old, new):
            new = jnp.append(new, new, axis=1) if alone else new
            return jax.vmap(lambda o, n, s: o.at[s].set(n, mode="drop"))(old, new, slots_BT)

        def write_by_head(old, new):
            return jax.vmap(write)(old, by_head(new).astype(old.dtype))

        return Cache(
            keys=write_by_head(self.keys, key),
            values=write_by_head(self.values, value),
            positions=write(self.positions, positions),
            written=write(self.written, jnp.ones_like(valid_BT)),
            features=jax.tree.map(write, self.features, features),
            state=state,
            length=length,
            order=None if order is None else write(self.order, order),
            tables=self.tables,
        )

    def take(self, rows: Int[Array, "R"]) -> "Cache":
        """Return the cache of the given batch rows, to reorder beams or repeat a prompt.

        Caches of scanned layers have a layer axis before the batch, which is unchanged.
        """

        def take(name: str) -> Any:
            batch = self.length.ndim - 1
            axis = batch + 1 if name in ("keys", "values") else batch  # heads come first there
            return jax.tree.map(lambda x: jnp.take(x, rows, axis=axis), getattr(self, name))

        names = [field.name for field in dataclasses.fields(self) if field.name != "tables"]
        return dataclasses.replace(self, **{name: take(name) for name in names})


def _is_real(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def by_head(x: Float[Array, "B C K H"]) -> Float[Array, "K B C H"]:
    """Return keys or values in the layout of a cache; a layer axis before B is unchanged."""
    return jnp.moveaxis(x, -2, -4)


def by_token(x: Float[Array, "K B C H"]) -> Float[Array, "B C K H"]:
    """Undo `by_head`."""
    return jnp.moveaxis(x, -4, -2)
