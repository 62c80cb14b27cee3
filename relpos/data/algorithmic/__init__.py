"""Algorithmic tasks by name. The classes in `sources` are the registry; a new one is found automatically."""

import functools
import importlib
import inspect
from typing import Any

from relpos import registry
from relpos.data.algorithmic import sources
from relpos.data.algorithmic.base import Task as Task
from relpos.data.algorithmic.batches import eval_batches as eval_batches
from relpos.data.algorithmic.batches import size_for as size_for
from relpos.data.algorithmic.batches import train_batches as train_batches
from relpos.data.errors import DataError
from relpos.errors import did_you_mean


def names() -> tuple[str, ...]:
    """Return the names of all tasks, sorted."""
    return tuple(sorted(_classes()))


def task_class(name: str) -> type[Task]:
    """Return the class of a task; for an unknown name, raise an error that suggests the nearest one."""
    if name not in _classes():
        raise DataError(f"There is no algorithmic task {name!r}{did_you_mean(name, names())}.")
    return _classes()[name]


def options(name: str) -> dict[str, Any]:
    """Return a task's options with their defaults."""
    parameters = inspect.signature(task_class(name)).parameters
    return {key: parameter.default for key, parameter in parameters.items()}


def create(name: str, **chosen: Any) -> Task:
    """Make a task.

    Args:
      name: one of `names()`.
      **chosen: the task's options, see `options(name)`.

    Raises:
      DataError: an unknown name or option (the message names the nearest one), or a value the task refuses.
    """
    known = options(name)
    for key in chosen:
        if key not in known:
            hint = did_you_mean(key, known) if known else "; it has no options"
            raise DataError(f"The task {name!r} has no option {key!r}{hint}.")
    return task_class(name)(**chosen)


@functools.cache
def _classes() -> dict[str, type[Task]]:
    """Return every task class in `sources` that defines `name`."""
    found: dict[str, type[Task]] = {}
    for file in registry.names(sources):
        module = importlib.import_module(f"{sources.__name__}.{file}")
        for _, value in inspect.getmembers(module, inspect.isclass):
            own = value.__module__ == module.__name__ and "name" in vars(value)
            if own and issubclass(value, Task):
                if value.name in found:
                    raise TypeError(f"two tasks are called {value.name!r}")
                found[value.name] = value
    return found
