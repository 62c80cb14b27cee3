"""The text feature of a tensorflow-datasets data source, as a sequence of documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload


class TextRecords(Sequence[bytes]):
    """Documents read one by one from disk when they are asked for.

    Args:
        source: random access records, as tfds' `as_data_source` gives them.
        feature: the feature that holds the text.
    """

    def __init__(self, source: Sequence[Mapping[str, Any]], feature: str) -> None:
        self._source = source
        self._feature = feature

    def __len__(self) -> int:
        return len(self._source)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        text = self._source[index % len(self)][self._feature]
        return text.encode() if isinstance(text, str) else bytes(text)


class DocumentRange(Sequence[bytes]):
    """The documents [start, stop) of others, without a copy."""

    def __init__(self, documents: Sequence[bytes], start: int, stop: int) -> None:
        self._documents = documents
        self._range = range(start, stop)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._documents[i] for i in self._range[index]]
        return self._documents[self._range[index]]
