"""Data sources by name. A folder is the registry: each file is a source whose `load` returns a corpus."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from relpos import registry
from relpos.data.corpus import Corpus
from relpos.data.errors import DataError

Item = TypeVar("Item")


class Sources(Generic[Item]):
    """The sources in a folder.

    Args:
      package: the folder's dotted name.
      what: the kind of data, for messages.
    """

    def __init__(self, package: str, what: str) -> None:
        self._package = package
        self._what = what

    def names(self) -> tuple[str, ...]:
        """Return the names of all sources, sorted."""
        return registry.names(importlib.import_module(self._package))

    def options(self, name: str) -> dict[str, Any]:
        """Return a source's options with their defaults: the keyword arguments of its `load`.

        Raises:
          DataError: there is no such source; the message names the nearest one.
        """
        parameters = inspect.signature(self._find(name)).parameters
        return {key: parameter.default for key, parameter in parameters.items()}

    def load(self, name: str, /, **chosen: Any) -> Corpus[Item]:
        """Load a corpus.

        Args:
          name: one of `names()`.
          **chosen: the source's options, see `options(name)`.

        Raises:
          DataError: the source or an option is unknown (the message names the nearest one), or the data cannot be used.
        """
        known = self.options(name)
        for key, value in chosen.items():
            if key not in known:
                raise DataError(registry.unknown(f"option of {name}", key, tuple(known)))
            try:
                registry.check_value(f"{name}.{key}", value, known[key])
            except ValueError as error:
                raise DataError(str(error)) from error
        found: Corpus[Item] = self._find(name)(**chosen)
        return found

    def load_chosen(self, section: Mapping[str, Any]) -> Corpus[Item]:
        """Load the corpus that a config's `data` section chooses.

        Args:
          section: `source` names a source, `sources` maps names to options.

        Raises:
          DataError: as for `load`.
        """
        name = section["source"]
        try:
            return self.load(name, **section["sources"].get(name, {}))
        except DataError as error:
            raise DataError(f"config section 'data.sources.{name}': {error}") from error

    def _find(self, name: str) -> Any:
        if name not in self.names():
            raise DataError(registry.unknown(f"source of {self._what}", name, self.names()))
        return importlib.import_module(f"{self._package}.{name}").load
