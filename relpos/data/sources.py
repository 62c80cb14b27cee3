"""Data sources by name. A folder is the registry: each file is a source whose `load` returns a corpus."""

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

from relpos import registry
from relpos.data.corpus import Corpus
from relpos.data.errors import DataError

Item = TypeVar("Item")


class Sources(registry.Functions, Generic[Item]):
    """The sources in a folder.

    Args:
      package: the folder as a dotted name.
      what: the kind of data, for messages.
    """

    def __init__(self, package: str, what: str) -> None:
        super().__init__(package, "load", f"source of {what}")

    def load(self, name: str, /, **chosen: Any) -> Corpus[Item]:
        """Load the corpus of a source with the given options; see `names` and `options`.

        Raises:
          DataError: the source or an option is unknown (the nearest one is named), or the data cannot be used.
        """
        try:
            found: Corpus[Item] = self.call(name, **chosen)
        except ValueError as error:
            raise DataError(str(error)) from error
        return found

    def load_chosen(self, name: str, options: Mapping[str, Mapping[str, Any]]) -> Corpus[Item]:
        """Load the corpus of a source, given a config's options for all sources, by source name.

        Raises:
          DataError: as for `load`; the message names the config section.
        """
        try:
            return self.load(name, **options[name])
        except DataError as error:
            raise DataError(f"config section 'data.sources.{name}': {error}") from error
