"""A job with its results: a row for each run, and means over the runs of a series."""

import dataclasses
import functools
import math
import statistics
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from relpos.errors import UserError
from relpos.experiments import results, spec
from relpos.experiments.measures import BETTER, Measure, Report, setting
from relpos.experiments.results import Results
from relpos.experiments.trial import Trial
from relpos.runs import Run
from relpos.runs.run import FINISHED
from relpos.sections import show
from relpos.training import run_config
from relpos.training.task import create_task


@dataclasses.dataclass(frozen=True)
class Row:
    """A run: its record in the results, its figures by column, and whether it learned the job."""

    record: Mapping[str, Any]
    series: Any
    x: Any
    figures: Mapping[str, float | None]
    learned: bool

    @property
    def finished(self) -> bool:
        """Whether the run has finished."""
        return bool(self.record["state"] == FINISHED)


@dataclasses.dataclass(frozen=True)
class Mean:
    """The runs of one series at one x.

    `values` are the results of the runs that learned the job, `speed` is the median tokens/s of training.
    """

    values: tuple[float, ...]
    speed: float | None
    not_learned: int
    not_finished: int
    best: bool = False

    @property
    def mean(self) -> float | None:
        """The mean result, None without results."""
        return statistics.mean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation (n - 1), None for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None


@dataclasses.dataclass(frozen=True)
class Job:
    """The results of a job.

    Attributes:
      name: the job's name.
      report: the meaning of its figures.
      results: the results written by the sweep.
      runs: the folder with its run directories; some may be missing.
    """

    name: str
    report: Report
    results: Results
    runs: Path | None = None

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """A row for each run."""
        found = []
        for run in self.results["runs"]:
            x = setting(self.results, run["point"], self.report.x)
            series = setting(self.results, run["point"], self.report.series)
            records = run.get("records", ())
            figures = {column.name: column.of(records, x) for column in self.report.columns}
            learned = self.report.inside.is_learned(figures[self.report.inside.name])
            found.append(Row(run, series, x, figures, learned))
        return tuple(found)

    @functools.cached_property
    def series(self) -> Mapping[Any, tuple[Row, ...]]:
        """The rows of each series."""
        names = dict.fromkeys(row.series for row in self.rows)
        return {name: tuple(row for row in self.rows if row.series == name) for name in names}

    @property
    def xs(self) -> list[Any]:
        """The values of the axis `x`."""
        return list(dict.fromkeys(row.x for row in self.rows))

    def of_inside(self, rows: Iterable[Row]) -> list[float]:
        """Return the in-distribution figures."""
        return _there(row.figures[self.report.inside.name] for row in rows)

    def of_result(self, rows: Iterable[Row]) -> list[float]:
        """Return the results of the rows that learned the job."""
        return _there(row.figures[self.report.result.name] for row in rows if row.learned)

    @functools.cached_property
    def groups(self) -> Mapping[tuple[Any, Any], list[Row]]:
        """(series, x) -> the rows of runs that differ only in their seed."""
        found: dict[tuple[Any, Any], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row.series, row.x), []).append(row)
        return found

    @functools.cached_property
    def means(self) -> Mapping[tuple[Any, Any], Mean]:
        """(series, x) -> mean. The best mean at each x is marked as `best`."""
        found = {}
        for key, rows in self.groups.items():
            speeds = _there(row.record.get("tokens_per_second") for row in rows)
            found[key] = Mean(
                tuple(self.of_result(rows)),
                statistics.median(speeds) if speeds else None,
                sum(row.finished and not row.learned for row in rows),
                sum(not row.finished for row in rows),
            )
        for (name, x), mean in found.items():
            rivals = _there(other.mean for (_, at), other in found.items() if at == x)
            best = len(rivals) > 1 and mean.mean == BETTER[self.report.better](rivals)
            found[name, x] = dataclasses.replace(mean, best=best)
        return found

    def mean(self, series: Any) -> float | None:
        """Return the mean result of a series, or None."""
        values = self.of_result(self.series.get(series, ()))
        return statistics.mean(values) if values else None

    def merit(self, series: Any) -> float:
        """Return the mean result, negated if lower is better; minus infinity if there is none."""
        sign = 1 if self.report.better == "higher" else -1
        return -math.inf if (mean := self.mean(series)) is None else sign * mean

    @functools.cached_property
    def parameters(self) -> Mapping[tuple[Any, Any], int]:
        """(series, x) -> number of model parameters, if the task and data are available here."""
        found = {}
        for key, rows in self.groups.items():
            keys = {**self.results["set"], **rows[0].record["point"]}
            items = [(name, show(value)) for name, value in keys.items()]
            with tempfile.TemporaryDirectory() as folder:
                try:
                    config = run_config.load(self.results["config"], items)
                    task = create_task(config, Path(folder))
                except UserError:
                    continue
                make = task.init_model
                shapes = jax.eval_shape(lambda make=make: nnx.state(make(nnx.Rngs(0)), nnx.Param))
            found[key] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        return found

    def trial(self, row: Row) -> Trial:
        """Return the run of a row. Its directory may be missing."""
        point = row.record["point"]
        folder = Path(row.record.get("workdir") or (self.runs or Path()) / spec.folder_of(point))
        config = self.results["config"]  # "" for runs outside a sweep
        overrides = {**self.results["set"], **point}
        return Trial(config, point, overrides, folder, trust_code=bool(config))

    def digits(self, column: Measure) -> int:
        """Return a column's decimals: from the pooled deviation over seeds, or enough to tell single runs apart."""
        groups = [_there(row.figures[column.name] for row in rows) for rows in self.groups.values()]
        spread = [statistics.stdev(values) for values in groups if len(set(values)) > 1]
        if spread:
            return decimals(math.hypot(*spread) / math.sqrt(len(spread)))
        every = [value for values in groups for value in values]
        apart = decimals(statistics.stdev(every)) if len(set(every)) > 1 else 0
        return max(self.report.digits, apart)

    @property
    def made_with(self) -> str:
        """The commits and machines of the runs."""
        told = [row.record["about"] for row in self.rows if "about" in row.record]
        commits, machines = (
            ", ".join(sorted({about[key] for about in told if about[key]})) or "unknown"
            for key in ("commit", "machine")
        )
        return f"commit {commits}; {machines}" if told else "commit and machine not recorded"


def _there(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def decimals(deviation: float) -> int:
    """Return the number of decimals that show two significant digits of a deviation."""
    return max(0, 1 - math.floor(math.log10(float(f"{deviation:.1e}"))))


def read(folder: Path, scale: str, runs: Path | None = None) -> Job:
    """Read a job's results, with the report defined in its sweep.toml or, without one, a suggested report.

    Args:
      folder: the job's folder, with its figures in results/.
      scale: the scale of the results.
      runs: the folder of its run directories.

    Raises:
      UserError: a file is missing or invalid.
    """
    found = results.read(folder / "results" / f"{scale}.json")
    report = Report.of_job(folder) if (folder / "sweep.toml").exists() else None
    return Job(folder.name, report or Report.suggested(found, folder.name), found, runs)


def of_runs(paths: Iterable[Path]) -> Job:
    """Return a job with a series for each run directory, none of which belongs to a sweep.

    Raises:
      UserError: a path is not a run directory, or no run has a test figure yet.
    """
    paths, found = list(paths), []
    alike = len({path.name for path in paths}) < len(paths)
    for path in paths:
        settings = Run(path).settings
        name = str(path) if alike else path.name
        point = {"run": name, "sequence_length": settings.get("sequence_length")}
        record = results.record(Trial("", point, settings, path, trust_code=False))
        found.append(record | {"workdir": str(path)})
    plain: Results = {"scale": "", "config": "", "set": {}, "runs": found}
    report = Report.suggested(plain, "runs")
    return Job("runs", dataclasses.replace(report, x="sequence_length", series="run"), plain)
