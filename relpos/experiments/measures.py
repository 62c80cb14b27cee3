"""What a job reports: the section [report] of its sweep.toml, or defaults chosen from its records."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from relpos.errors import UserError, did_you_mean
from relpos.experiments import spec
from relpos.experiments.results import Results
from relpos.runs.metrics import MEASURES, by_length, measure_of
from relpos.training.evaluation import LABELS, PARTS

Record = Mapping[str, Any]
BETTER = {"higher": max, "lower": min}


@dataclasses.dataclass(frozen=True)
class Measure:
    """A figure of a run: a value of its newest record that meets some conditions.

    Attributes:
      name: name of the column.
      value: name of the value in the record.
      where: required labels of the record, such as ``{"split": "test", "length": 40}``.
      multiple: required length of the record as a multiple of the run's `x`, or None.
      times: scale factor, 100 for percentages.
      least: minimum figure for a run to have learned its job, None for no bound.
      most: maximum figure for a run to have learned its job, None for no bound.
    """

    name: str
    value: str
    where: Mapping[str, Any]
    multiple: int | None = None
    times: float = 1
    least: float | None = None
    most: float | None = None

    @classmethod
    def of_section(cls, section: Mapping[str, Any]) -> "Measure":
        """Return the measure of a section of [report]. Its additional keys go to `where`."""
        own = {field.name for field in dataclasses.fields(cls)} - {"where"}
        given = {key: value for key, value in section.items() if key in own}
        return cls(**given, where={k: v for k, v in section.items() if k not in own})

    def of(self, records: Sequence[Record], x: Any = None) -> float | None:
        """Return the figure of a run's records, or None."""
        asked = dict(self.where)
        if self.multiple is not None:
            asked["length"] = self.multiple * x
        found = [
            record[self.value]
            for record in records
            if record.get(self.value) is not None
            and all(record.get(key) == value for key, value in asked.items())
            and all(part in asked or part not in record for part in PARTS)
        ]
        return found[-1] * self.times if found else None

    def is_learned(self, figure: float | None) -> bool:
        """Return whether a run with this figure has learned its job; True without bounds."""
        if figure is None:
            return self.least is self.most is None
        return (self.least is None or figure >= self.least) and (
            self.most is None or figure <= self.most
        )


_NEEDED = ("x", "series", "title", "better", "result", "in_distribution")
_SECTION = (*_NEEDED, "more", "digits", "costs")
_COLUMN = ({f.name for f in dataclasses.fields(Measure)} - {"where"}) | {"split", *LABELS}


@dataclasses.dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
      x: the sweep axis along which to show results.
      series: the sweep axis to compare.
      title: title of the job's picture.
      better: whether "higher" or "lower" results are better.
      result: the figure to compare.
      inside: the in-distribution figure, which determines whether a run has learned its job.
      more: additional figures for the table.
      digits: decimals in the leaderboard, and the fewest in tables of single runs.
      costs: whether the leaderboard takes speed and parameters from this job.
    """

    x: str
    series: str
    title: str
    better: str
    result: Measure
    inside: Measure
    more: tuple[Measure, ...] = ()
    digits: int = 1
    costs: bool = False

    @property
    def columns(self) -> tuple[Measure, ...]:
        """All figures of a run."""
        return (self.inside, self.result, *self.more)

    @classmethod
    def of_job(cls, folder: Path) -> "Report | None":
        """Return the report that the sweep.toml of a job defines, if any; see `of_section`."""
        section = spec.plain(folder).get("report")
        return None if section is None else cls.of_section(section, str(folder / "sweep.toml"))

    @classmethod
    def of_section(cls, section: Mapping[str, Any], where: str) -> "Report":
        """Read the section [report] of the sweep.toml at `where`.

        Raises:
          UserError: the section is incomplete or contradictory.
        """
        for key in _NEEDED:
            if key not in section:
                raise UserError(f"{where}: [report] has no {key!r}")
        more = {f"more.{name}": column for name, column in section.get("more", {}).items()}
        columns = {name: section[name] for name in ("result", "in_distribution")} | more
        try:
            spec.check_keys(section, _SECTION, "report")
            for name, column in columns.items():
                spec.check_keys(column, _COLUMN, f"report.{name}")
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if section["better"] not in BETTER:
            raise UserError(
                f"{where}: better = {section['better']!r}{did_you_mean(str(section['better']), BETTER)}"
            )
        if {"least", "most"} <= set(section["in_distribution"]):
            raise UserError(f"{where}: [report.in_distribution] has both 'least' and 'most'")
        plain = {key: section[key] for key in ("x", "series", "title", "better")}
        plain |= {key: section[key] for key in ("digits", "costs") if key in section}
        try:
            return cls(
                **plain,
                result=Measure.of_section(section["result"]),
                inside=Measure.of_section(section["in_distribution"]),
                more=tuple(map(Measure.of_section, section.get("more", {}).values())),
            )
        except TypeError as error:  # a Measure lacks its name or value
            raise UserError(f"{where}: [report]: {error}") from None

    @classmethod
    def suggested(cls, results: Results, title: str) -> "Report":
        """Choose a report from the records, for a sweep without a [report].

        The series is ``encoding`` or the first axis. The result is the first of `MEASURES` in the test records, at the
        greatest length that all runs share.

        Raises:
          UserError: no run has a test result.
        """
        records = [record for run in results["runs"] for record in run.get("records", ())]
        tested = [record for record in records if record.get("split") == "test"]
        if (value := measure_of(tested)) is None:
            raise UserError(f"{title}: no run has a figure of the test split yet")
        axes = [axis for axis in results["runs"][0]["point"] if axis != "seed"] or ["seed"]
        series = "encoding" if "encoding" in axes else axes[0]
        x = next((axis for axis in axes if axis != series), "sequence_length")
        each = [by_length(run.get("records", ()), value) for run in results["runs"]]
        shared = [set(lengths) for lengths in each if lengths]
        lengths = sorted(set.intersection(*shared) or set.union(*shared)) if shared else [0]
        inside, result = (
            Measure(
                f"{value} at {length}" if length else value,
                value,
                {"split": "test"} | ({"length": length} if length else {}),
            )
            for length in (lengths[0], lengths[-1])
        )
        return cls(x, series, title, MEASURES[value], result, inside, digits=3)


def setting(results: Results, point: Mapping[str, Any], key: str) -> Any:
    """Return a key of a run's config: from its point in the sweep, the common settings, or the default."""
    if key in point:
        return point[key]
    return (
        results["set"][key] if key in results["set"] else spec.settings(results["config"]).get(key)
    )
