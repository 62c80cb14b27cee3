"""A run of a sweep: its point in the sweep, its command and its state."""

import dataclasses
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relpos.files import read_json, write_atomically
from relpos.runs import Run
from relpos.runs.run import FINISHED
from relpos.sections import flatten, show, to_plain
from relpos.training import run_config
from relpos.training.run_directory import may_change

FAILED = "failed"


@functools.lru_cache(64)
def settings(config: str, overrides: tuple[tuple[str, str], ...] = ()) -> Mapping[str, Any]:
    """Return dotted key -> value of a config with overrides, as stored in config.json.

    Raises:
      UserError: the config does not exist, or an override is invalid.
    """
    return flatten(to_plain(run_config.load(config, overrides)))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    Attributes:
      config: the name or file of the config.
      point: its point in the sweep, axis -> value.
      overrides: all config keys that it sets, including the axes.
      workdir: its run directory.
      kept: its record in the sweep's results, if finished. Its directory may then be missing.
      trust_code: whether the code that its directory names may run: a sweep's config is the user's own.
    """

    config: str
    point: Mapping[str, Any]
    overrides: Mapping[str, Any]
    workdir: Path
    kept: Mapping[str, Any] | None = None
    trust_code: bool = True

    @functools.cached_property
    def run(self) -> Run:
        """The run in its run directory."""
        return Run(self.workdir, trust_code=self.trust_code)

    @property
    def name(self) -> str:
        """The name of the run directory."""
        return self.workdir.name

    def _beside(self, suffix: str) -> Path:
        return self.workdir.with_name(f"{self.name}{suffix}")

    @property
    def log(self) -> Path:
        """The log file of the last attempt."""
        return self._beside(".log")

    @property
    def failure(self) -> Path:
        """The file with the end of a failed attempt's log, kept until the next attempt."""
        return self._beside(".failed")

    @property
    def state(self) -> str:
        """The run's state, or ``"failed"``."""
        if self.kept or self.run.state == FINISHED:
            return FINISHED
        return FAILED if self.failure.exists() else self.run.state

    @property
    def arguments(self) -> list[str]:
        """The arguments of `relpos train` for this run."""
        keys = [f"--config.{key}={show(value)}" for key, value in self.overrides.items()]
        return ["--config", self.config, "--workdir", str(self.workdir), *keys]

    @property
    def about(self) -> dict[str, Any] | None:
        """The last attempt's commit and machine, and the seconds of all attempts; None before one has ended."""
        try:
            found: dict[str, Any] = read_json(self._beside(".about.json"))
        except FileNotFoundError:
            return None
        return found

    def note(self, commit: str, machine: str, seconds: float) -> None:
        """Record a finished attempt, see `about`."""
        seconds = round((self.about or {"seconds": 0.0})["seconds"] + seconds, 1)
        about = {"commit": commit, "machine": machine, "seconds": seconds}
        write_atomically(self._beside(".about.json"), json.dumps(about) + "\n")

    def other_settings(self) -> list[str]:
        """Return the settings in the run directory that differ from the sweep's, as text."""
        if not (self.workdir / "config.json").exists():
            return []
        texts = tuple((key, show(value)) for key, value in self.overrides.items())
        there, here = self.run.settings, settings(self.config, texts)
        return [
            f"{key} is {there[key]!r} there, {value!r} in the sweep"
            for key, value in here.items()
            # Lists are tuples here. Moved data are compared when the run resumes.
            if key in there and show(there[key]) != show(value) and not may_change(key)
        ]
