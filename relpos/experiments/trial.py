"""A run of a sweep: where it stands in the sweep, how it is trained, and how far it is."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relpos.files import read_json, write_atomically
from relpos.runs import Run
from relpos.runs.run import FINISHED

FAILED = "failed"


def spelled(value: Any) -> str:
    """Return a value of a config as the command line spells it."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
      config: the name or file of the config.
      point: its place in the sweep, axis -> value.
      overrides: all keys of the config that it sets, the axes among them.
      workdir: its run directory.
      kept: its record in the sweep's results, if it is finished there; its directory may be gone, or elsewhere.
    """

    config: str
    point: Mapping[str, Any]
    overrides: Mapping[str, Any]
    workdir: Path
    kept: Mapping[str, Any] | None = None

    @functools.cached_property
    def run(self) -> Run:
        """What its run directory holds."""
        # Its config is the user's own, and so is the code that it may name.
        return Run(self.workdir, trust_code=True)

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.workdir.name

    def _beside(self, suffix: str) -> Path:
        return self.workdir.with_name(f"{self.name}{suffix}")

    @property
    def log(self) -> Path:
        """The output of the last attempt."""
        return self._beside(".log")

    @property
    def failure(self) -> Path:
        """The end of the log of a failed attempt, kept until the run is tried again."""
        return self._beside(".failed")

    @property
    def state(self) -> str:
        """The run's state, or ``"failed"``."""
        if self.kept or self.run.state == FINISHED:
            return FINISHED
        return FAILED if self.failure.exists() else self.run.state

    @property
    def arguments(self) -> list[str]:
        """The arguments of `relpos train` that train it."""
        keys = [f"--config.{key}={spelled(value)}" for key, value in self.overrides.items()]
        return ["--config", self.config, "--workdir", str(self.workdir), *keys]

    @property
    def about(self) -> dict[str, Any] | None:
        """The commit, the machine and the seconds of all attempts, None before the first has ended."""
        try:
            found: dict[str, Any] = read_json(self._beside(".about.json"))
        except FileNotFoundError:
            return None
        return found

    def note(self, commit: str, machine: str, seconds: float) -> None:
        """Record an attempt that has ended, see `about`."""
        seconds = round((self.about or {"seconds": 0.0})["seconds"] + seconds, 1)
        about = {"commit": commit, "machine": machine, "seconds": seconds}
        write_atomically(self._beside(".about.json"), json.dumps(about) + "\n")

    def other_settings(self) -> list[str]:
        """Return the settings of the run directory that differ from the sweep's, as text."""
        if not (self.workdir / "config.json").exists():
            return []
        there = self.run.settings
        return [
            f"{key} is {there.get(key)!r} there, {value!r} in the sweep"
            for key, value in self.overrides.items()
            if there.get(key) != value
        ]
