"""The figures of a sweep as JSON, kept apart from the run directories."""

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relpos.errors import UserError
from relpos.experiments.trial import FAILED, Trial
from relpos.files import read_json, write_atomically
from relpos.runs import metrics
from relpos.runs.run import FINISHED
from relpos.training.metrics_log import figures

Results = Mapping[str, Any]

_KINDS: Mapping[str, Any] = {"scale": str, "config": str, "set": dict, "runs": list}
_ABOUT: Mapping[str, Any] = {"commit": str, "machine": str, "seconds": int | float}


def read(path: Path) -> Results:
    """Return ``{"scale": ..., "config": ..., "set": ..., "runs": [...]}`` as written by `write`.

    Raises:
      UserError: the file is damaged, or does not hold a sweep's results.
    """
    results = read_json(path)
    if not _has(results, _KINDS) or not all(map(_is_run, results["runs"])):
        raise UserError(f"{path} holds no sweep results: remove it")
    found: Results = results
    return found


def _is_run(run: Any) -> bool:
    return (
        _has(run, {"point": dict, "state": str})
        and isinstance(records := run.get("records", []), list)
        and all(isinstance(record, dict) for record in records)
        and ("about" not in run or _has(run["about"], _ABOUT))
    )


def _has(value: Any, kinds: Mapping[str, Any]) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), kind) for name, kind in kinds.items()
    )


def finished(path: Path, config: str, common: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the finished runs in a file of results; empty if there is no file.

    Raises:
      UserError: their config or common settings differ from the sweep's current ones.
    """
    if not path.exists():
        return []
    results = read(path)
    found = [run for run in results["runs"] if run["state"] == FINISHED]
    then, now = ({"config": results["config"]} | results["set"], {"config": config} | dict(common))
    others = [
        f"{key} is {then.get(key)!r} there, {now.get(key)!r} in the sweep"
        for key in sorted(now | then)
        if now.get(key) != then.get(key)
    ]
    if found and others:
        raise UserError(f"{path}: {'; '.join(others)}. Remove the file to begin anew.")
    return found


def record(trial: Trial) -> dict[str, Any]:
    """Return the figures of a run: its speed and last records, or the end of its log if it failed."""
    if trial.kept:
        return dict(trial.kept)
    records = trial.run.records()
    last = metrics.last_step(records)
    found: dict[str, Any] = {"point": dict(trial.point), "state": trial.state, "step": last}
    speeds = metrics.table(records).get("train", {}).get("tokens_per_second", ())
    if len(speeds):
        found["tokens_per_second"] = round(statistics.median(map(float, speeds)), 1)
    if about := trial.about:
        found["about"] = about
    if trial.state == FINISHED:
        found["records"] = [
            figures(r) for r in records if r.get("step") == last and r.get("split") != "train"
        ]
    if trial.state == FAILED:
        found["failure"] = trial.failure.read_text().splitlines()[-12:]
    return found


def write(
    path: Path, scale: str, config: str, common: Mapping[str, Any], trials: tuple[Trial, ...]
) -> None:
    """Write the figures of all runs of a sweep."""
    runs = [record(trial) for trial in trials]
    plain = {"scale": scale, "config": config, "set": dict(common), "runs": runs}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plain, indent=1) + "\n")
