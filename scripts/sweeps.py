"""A sweep of runs as plain data: what sweep.toml says, and the state of its runs.

An experiment is a folder with a sweep.toml, or a folder of such folders, each of which is one of its jobs.
"""

import dataclasses
import fcntl
import itertools
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relpos import encodings
from relpos.errors import UserError, did_you_mean
from relpos.files import open_regular, read_json, read_records
from relpos.sections import flatten
from relpos.training.stored_run import read_run

# What an axis of sweep.toml may be instead of a list: all schemes for one-dimensional positions, or those of them that
# an encoder can use.
EVERY: dict[str, Callable[[type[encodings.Encoding]], bool]] = {
    "every scheme": lambda scheme: scheme.axes in (None, 1),
    "every scheme of both sides": lambda scheme: (
        scheme.axes in (None, 1) and not scheme.causal_only
    ),
}

FINISHED, FAILED, BEGUN, WAITING = "finished", "failed", "begun", "waiting"


def spelled(value: Any) -> str:
    """Return a value of a config as the command line spells it."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      job: the folder of its sweep.toml, by name.
      config: the config file.
      point: its place in the sweep, axis -> value.
      overrides: all keys of the config that it sets, including the axes.
      workdir: its run directory.
      kept: its record in the sweep's results, if it is finished there; its directory may be gone, or elsewhere.
    """

    job: str
    config: str
    point: Mapping[str, Any]
    overrides: Mapping[str, Any]
    workdir: Path
    kept: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        return self.workdir.name

    @property
    def log(self) -> Path:
        """The output of the last attempt, beside the run directory."""
        return self.workdir.with_suffix(self.workdir.suffix + ".log")

    @property
    def failure(self) -> Path:
        """The end of the log of a failed attempt, kept until the run is tried again."""
        return self.workdir.with_suffix(self.workdir.suffix + ".failed")

    @property
    def about(self) -> Path:
        """The commit, machine and running time, beside the run directory."""
        return self.workdir.with_suffix(self.workdir.suffix + ".about.json")

    @property
    def state(self) -> str:
        if self.kept or (self.workdir / "summary.txt").exists():
            return FINISHED
        if self.failure.exists():
            return FAILED
        return BEGUN if (self.workdir / "config.json").exists() else WAITING

    def other_settings(self) -> list[str]:
        """Return the settings of the run directory that differ from sweep.toml, as text."""
        if not (self.workdir / "config.json").exists():
            return []
        there = flatten(read_run(self.workdir)["config"])
        return [
            f"{key} is {there.get(key)!r} there, {value!r} in sweep.toml"
            for key, value in self.overrides.items()
            if there.get(key) != value
        ]

    @property
    def in_use(self) -> bool:
        """Whether a process is training it now, perhaps of an earlier sweep."""
        lock = self.workdir / ".lock"
        if not lock.exists():
            return False
        with os.fdopen(open_regular(lock)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def records(self) -> list[dict[str, Any]]:
        """Return the records of metrics.jsonl."""
        try:
            return read_records(self.workdir / "metrics.jsonl")
        except FileNotFoundError:
            return []

    @property
    def step(self) -> int:
        steps = (record.get("step") for record in self.records())
        return max((step for step in steps if isinstance(step, int)), default=0)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """All runs of one scale of an experiment."""

    experiment: Path
    scale: str
    config: str
    common: Mapping[str, Any]  # the keys of the config that all runs set alike
    report: Mapping[str, Any]
    runs: tuple[Run, ...]

    @property
    def results(self) -> Path:
        """The file with the figures of the runs, which the repository keeps."""
        return self.experiment / "results" / f"{self.scale}.json"


def jobs(experiment: Path) -> list[Path]:
    """Return the folders of an experiment that have a sweep.toml: itself, or folders in it.

    Raises:
      UserError: there is none; names the nearest experiment beside it.
    """
    if (experiment / "sweep.toml").is_file():
        return [experiment]
    if found := sorted(path.parent for path in experiment.glob("*/sweep.toml")):
        return found
    beside = {path.parent for path in experiment.parent.glob("*/sweep.toml")}
    beside |= {path.parent.parent for path in experiment.parent.glob("*/*/sweep.toml")}
    raise UserError(
        f"{str(experiment)!r} is no experiment: it has no sweep.toml{did_you_mean(str(experiment), map(str, beside))}"
    )


def read_all(experiment: Path, scale: str, runs: Path) -> list[Sweep]:
    """Read the sweeps of an experiment's jobs, see `read`."""
    folders = jobs(experiment)
    runs = runs if folders == [experiment] else runs / experiment.name
    return [read(folder, scale, runs) for folder in folders]


def _values(axis: str, values: Any) -> Sequence[Any]:
    """Return the values of an axis; a word of EVERY becomes the names of its schemes."""
    if isinstance(values, list):
        return values
    if values not in EVERY:
        raise UserError(
            f"{axis} = {values!r} must be a list or one of {', '.join(map(repr, EVERY))}"
            f"{did_you_mean(str(values), EVERY)}"
        )
    return [name for name in encodings.names() if EVERY[values](encodings.scheme(name))]


def read(experiment: Path, scale: str, runs: Path) -> Sweep:
    """Read sweep.toml.

    Args:
      experiment: its folder.
      scale: one of those in the file.
      runs: the folder under which run directories lie.

    Raises:
      UserError: there is no such file or scale, or something is missing.
    """
    path = experiment / "sweep.toml"
    try:
        plain = tomllib.loads(path.read_text())
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: {error}") from error
    scales = plain.get("scales", {})
    if scale not in scales:
        raise UserError(f"{path} has no scale {scale!r}{did_you_mean(scale, scales)}")
    try:
        config, axes = plain["config"], scales[scale]["axes"]
        axes = {axis: _values(axis, values) for axis, values in axes.items()}
    except KeyError as error:
        raise UserError(f"{path} lacks {error} for the scale {scale!r}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    common = plain.get("set", {}) | scales[scale].get("set", {})
    sweep = Sweep(experiment, scale, config, common, plain.get("report", {}), ())
    kept = _kept(sweep)
    found = []
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        name = ",".join(f"{key.rpartition('.')[2]}={value}" for key, value in point.items())
        before = next((run for run in kept if run["point"] == point), None)
        workdir = runs / experiment.name / scale / name
        found.append(Run(experiment.name, config, point, common | point, workdir, before))
    return dataclasses.replace(sweep, runs=tuple(found))


def read_results(path: Path) -> dict[str, Any]:
    """Return the results that a sweep has written.

    Raises:
      UserError: the file is damaged, or is not a sweep's results.
    """
    results = read_json(path)
    kinds = {"scale": str, "config": str, "set": dict, "runs": list}
    if not _has(results, kinds) or not all(map(_is_run, results["runs"])):
        raise UserError(f"{path} is not what a sweep writes: remove it")
    found: dict[str, Any] = results
    return found


def _is_run(run: Any) -> bool:
    return (
        _has(run, {"point": dict, "state": str})
        and isinstance(records := run.get("records", []), list)
        and all(isinstance(record, dict) for record in records)
        and ("about" not in run or _has(run["about"], _ABOUT))
    )


_ABOUT = {"commit": str, "machine": str, "seconds": int | float}


def _has(value: Any, kinds: Mapping[str, Any]) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), kind) for name, kind in kinds.items()
    )


def _kept(sweep: Sweep) -> list[dict[str, Any]]:
    """Return the finished runs in the sweep's results, which must have the settings that sweep.toml has now."""
    if not sweep.results.exists():
        return []
    results = read_results(sweep.results)
    finished = [run for run in results["runs"] if run["state"] == FINISHED]
    then = {"config": results["config"]} | results["set"]
    now = {"config": sweep.config} | dict(sweep.common)
    others = [
        f"{key} is {then.get(key)!r} there, {now.get(key)!r} in sweep.toml"
        for key in sorted(now | then)
        if now.get(key) != then.get(key)
    ]
    if finished and others:
        raise UserError(f"{sweep.results}: {'; '.join(others)}. Remove the file to begin anew.")
    return finished
