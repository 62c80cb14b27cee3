"""Metrics by kind of work: each folder is a registry, and each file in it a metric.

A file has `measure`, and may have `FORMAT`, how tables show it, and `PROGRESS`, how the progress of training does.
"""

import importlib
from typing import Any

from relpos.registry import Functions


class Metrics(Functions):
    """The metrics in a folder.

    Args:
      package: the folder, by its dotted name.
    """

    def __init__(self, package: str) -> None:
        super().__init__(package, "measure", "metric")

    def measure(self, *given: Any) -> dict[str, Any]:
        """Return name -> what each `measure` makes of the arguments; those that return None are left out."""
        found = {name: self.call(name, *given) for name in self.names()}
        return {name: value for name, value in found.items() if value is not None}

    def attributes(self, attribute: str) -> dict[str, Any]:
        """Return name -> what a file's `attribute` is, such as its FORMAT, of the files that have it."""
        modules = {
            name: importlib.import_module(f"{self._package}.{name}") for name in self.names()
        }
        return {
            n: getattr(module, attribute)
            for n, module in modules.items()
            if hasattr(module, attribute)
        }
