"""The records of a tensorflow-datasets source as a sequence of items, read on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

Item = TypeVar("Item")


class Records(Sequence[Item]):
    """Items read one by one from disk.

    Args:
      source: records with random access, as tfds' `as_data_source` returns them.
      read: makes an item of a record.
    """

    def __init__(
        self, source: Sequence[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], Item]
    ) -> None:
        self._source = source
        self._read = read

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
            raise IndexError(f"record {index} of {len(self)}")
        return self._read(self._source[index % len(self)])


class Part(Sequence[Item]):
    """The items [start, stop) of another sequence, without a copy."""

    def __init__(self, items: Sequence[Item], start: int, stop: int) -> None:
        self._items = items
        self._range = range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        if isinstance(index, slice):
            return [self._items[i] for i in self._range[index]]
        return self._items[self._range[index]]


def as_bytes(text: str | bytes) -> bytes:
    """Return a text feature's value as UTF-8."""
    return text.encode() if isinstance(text, str) else bytes(text)
