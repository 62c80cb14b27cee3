"""The definition of a sweep as plain data, from a sweep.toml or the flags of `relpos sweep`.

An experiment is a folder with a sweep.toml, or a folder of such folders, which are its jobs.
"""

import dataclasses
import itertools
import re
import shlex
import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from relpos import encodings
from relpos.errors import UserError, did_you_mean
from relpos.experiments import results
from relpos.experiments.trial import Trial, settings
from relpos.sections import show

# Words that an axis may have instead of a list: all schemes for one-dimensional positions, or only those that support
# encoders.
EVERY: dict[str, Callable[[type[encodings.Encoding]], bool]] = {
    "every scheme": lambda scheme: scheme.axes in (None, 1),
    "every scheme of both sides": lambda scheme: (
        scheme.axes in (None, 1) and not scheme.causal_only
    ),
}
GRID = "grid"  # the scale name of sweeps from flags


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A sweep: all runs of one scale of a job.

    Attributes:
      name: name of the folder of its sweep.toml, or of its runs.
      scale: a scale in sweep.toml, or `GRID` for a sweep from flags.
      config: the name or file of the config.
      common: config keys with the same value in all runs.
      results: the file with the figures of the runs.
      trials: the runs.
    """

    name: str
    scale: str
    config: str
    common: Mapping[str, Any]
    results: Path
    trials: tuple[Trial, ...]

    def write_results(self) -> None:
        """Write the figures of all runs."""
        results.write(self.results, self.scale, self.config, self.common, self.trials)


def jobs(experiment: Path) -> list[Path]:
    """Return the folders of an experiment that have a sweep.toml: the experiment itself or its subfolders.

    Raises:
      UserError: there is none. The message suggests the experiment with the nearest name.
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
    """Return the sweeps of an experiment's jobs, see `read`."""
    folders = jobs(experiment)
    return [read(folder, scale, runs_of(experiment, folder, runs)) for folder in folders]


def runs_of(experiment: Path, job: Path, runs: Path) -> Path:
    """Return the folder for the runs of a job, with a subfolder per scale."""
    return runs / experiment.name if job == experiment else runs / experiment.name / job.name


def plain(experiment: Path) -> dict[str, Any]:
    """Return the content of a sweep.toml.

    Raises:
      UserError: the file cannot be read.
    """
    path = experiment / "sweep.toml"
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from error


def read(experiment: Path, scale: str, runs: Path) -> Sweep:
    """Return the sweep defined in a sweep.toml.

    Args:
      experiment: the folder of the file.
      scale: one of the scales in the file.
      runs: the folder for runs, with a subfolder per scale.

    Raises:
      UserError: the file or scale does not exist, or the file is incomplete.
    """
    path, found = experiment / "sweep.toml", plain(experiment)
    try:
        check_keys(found, ("config", "set", "scales", "report"), "")
        scales = found.get("scales", {})
        if scale not in scales:
            raise UserError(f"no scale {scale!r}{did_you_mean(scale, scales)}")
        check_keys(scales[scale], ("axes", "set"), f"scales.{scale}")
        config, axes = found["config"], scales[scale]["axes"]
        check_keys(axes, axes, f"scales.{scale}.axes")
        axes = {axis: _values(axis, values) for axis, values in axes.items()}
        common = found.get("set", {}) | scales[scale].get("set", {})
        each = [*common.items(), *((axis, v) for axis, values in axes.items() for v in values)]
        for key, value in each:
            settings(config, ((key, show(value)),))  # fail before the first run, not hours later
    except KeyError as error:
        raise UserError(f"{path} lacks {error} for the scale {scale!r}") from error
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    file = experiment / "results" / f"{scale}.json"
    return _sweep(experiment.name, scale, config, common, axes, file, runs / scale)


def from_flags(
    config: str, grid: Iterable[str], overrides: Sequence[tuple[str, str]], runs: Path
) -> Sweep:
    """Return the sweep defined by the flags of `relpos sweep`.

    Args:
      config: the name or file of the config.
      grid: axes of the form ``KEY=VALUE,VALUE``; ``;`` separates values that contain commas.
      overrides: (key, text) pairs that apply to all runs.
      runs: the folder for runs and results.

    Raises:
      UserError: an axis is malformed or repeated, or a key or value is invalid.
    """
    common = {key: settings(config, tuple(overrides))[key] for key, _ in overrides}
    axes: dict[str, list[Any]] = {}
    for axis in grid:
        key, equals, text = axis.partition("=")
        if not equals or not text:
            raise UserError(f"--grid takes KEY=VALUE,VALUE such as seed=0,1; got {axis!r}")
        if key in axes or key in common:
            raise UserError(f"--grid {axis!r}: {key} is set already")
        parts = _values(key, text) if text in EVERY else text.split(";" if ";" in text else ",")
        parts = parts[:-1] if len(parts) > 1 and not parts[-1] else parts  # "a,b;" is one value
        values = [settings(config, (*overrides, (key, part.strip())))[key] for part in parts]
        axes[key] = [value for n, value in enumerate(values) if value not in values[:n]]
    return _sweep(runs.name, GRID, config, common, axes, runs / "results" / f"{GRID}.json", runs)


def check_keys(section: Any, known: Collection[str], name: str) -> None:
    """Check that a section of a sweep.toml is one, and has only known keys.

    Raises:
      UserError: it is not, or a key is unknown.
    """
    if not isinstance(section, Mapping):
        raise UserError(f"[{name}] must be a section, got {section!r}")
    for key in section:
        if key not in known:
            where = f"[{name}]" if name else "it"
            raise UserError(f"{where} has an unknown key {key!r}{did_you_mean(key, known)}")


def _values(axis: str, values: Any) -> Sequence[Any]:
    """Return the values of an axis, replacing a word of EVERY by the names of its schemes."""
    if isinstance(values, list):
        return values
    if values not in EVERY:
        raise UserError(
            f"{axis} = {values!r} must be a list or one of {', '.join(map(repr, EVERY))}"
            f"{did_you_mean(str(values), EVERY)}"
        )
    return [name for name in encodings.names() if EVERY[values](encodings.scheme(name))]


def _sweep(
    name: str,
    scale: str,
    config: str,
    common: Mapping[str, Any],
    axes: Mapping[str, Sequence[Any]],
    file: Path,
    runs: Path,
) -> Sweep:
    """Return a sweep over all combinations of axis values."""
    kept = results.finished(file, config, common)
    trials: dict[str, Trial] = {}
    for values in itertools.product(*axes.values()):
        point = dict(zip(axes, values, strict=True))
        before = next((run for run in kept if run["point"] == point), None)
        folder = folder_of(point)
        if folder in trials:
            raise UserError(
                f"{dict(trials[folder].point)} and {point} share the run directory {folder!r}"
            )
        trials[folder] = Trial(config, point, {**common, **point}, runs / folder, before)
    names = [folder_of(run["point"]) for run in kept]
    lost = [n for n in names if n not in trials and not (runs / n).exists()]
    if lost:
        raise UserError(
            f"{file} alone has the figures of {len(lost)} finished runs that are not in this sweep, such as {lost[0]}: "
            "name them in it too, or move the file away"
        )
    return Sweep(name, scale, config, common, file, tuple(trials.values()))


def folder_of(point: Mapping[str, Any]) -> str:
    """Return the name of a run directory, such as ``encoding=rope,seed=0``."""
    parts = (f"{key.rpartition('.')[2]}={show(value)}" for key, value in point.items())
    return re.sub(r"[^\w.=,:+-]", "_", ",".join(parts)) or "run"


def command(folder: Path, results: Mapping[str, Any]) -> str:
    """Return the command that trains the runs of an experiment or a sweep."""
    if results["scale"] != GRID:
        return f"python -m relpos.sweep {folder} --scale {results['scale']}"
    line = ["python", "-m", "relpos.sweep", "--config", results["config"]]
    axes: dict[str, dict[str, None]] = {}
    for run in results["runs"]:
        for key, value in run["point"].items():
            axes.setdefault(key, {})[show(value)] = None
    for key, values in axes.items():
        between = ";" if any("," in value for value in values) else ","
        text = between.join(values) + (";" if between == ";" and len(values) == 1 else "")
        line += ["--grid", f"{key}={text}"]
    line += ["--runs", str(folder)]
    line += [f"--config.{key}={show(value)}" for key, value in results["set"].items()]
    return shlex.join(line)
