"""Metrics by kind of task: each package is a registry, and each module in it a metric.

A module defines `measure`, and optionally `FORMAT` and `PROGRESS`, its format in tables and in training progress.
"""

import functools
import importlib
from collections.abc import Callable
from typing import Any

from relpos.registry import Functions


class Metrics(Functions):
    """The metrics of a package, given by its dotted name."""

    def __init__(self, package: str) -> None:
        super().__init__(package, "measure", "metric")

    def measure(self, *given: Any) -> dict[str, Any]:
        """Return name -> result of `measure`, omitting results that are None."""
        found = {name: measure(*given) for name, measure in self._measures.items()}
        return {name: value for name, value in found.items() if value is not None}

    @functools.cached_property
    def _measures(self) -> dict[str, Callable[..., Any]]:
        """Name -> function, looked up only once because answers are measured one by one."""
        return {name: self.find(name) for name in self.names()}

    def attributes(self, attribute: str) -> dict[str, Any]:
        """Return name -> attribute, such as FORMAT, for the modules that define it."""
        modules = {n: importlib.import_module(f"{self._package}.{n}") for n in self.names()}
        return {n: getattr(m, attribute) for n, m in modules.items() if hasattr(m, attribute)}
