"""A sequence made from another one, each item on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

Item = TypeVar("Item")


class Mapped(Sequence[Item]):
    """The items make(source[0]), make(source[1]), ..., each made whenever it is read.

    Args:
      source: anything with a length and random access.
      make: makes an item from an element of `source`.
    """

    def __init__(self, source: Sequence[Any], make: Callable[[Any], Item]) -> None:
        self._source = source
        self._make = make

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of {len(self)}")
        return self._make(self._source[index % len(self)])
