"""A small sweep for tests, and how to run it."""

from pathlib import Path

from relpos import sweep
from relpos.experiments import spec

ROOT = Path(__file__).parents[2]


SWEEP = """
config = "{config}"

[set]
"steps" = 2
"log_every" = 1

[scales.tiny.axes]
"toy.width" = [3, 5]
"seed" = [0]

[scales.broken.axes]
"toy.nan" = [false, true]

[report]
x = "seed"
series = "toy.width"
title = "a toy"
better = "lower"
[report.result]
name = "result"
split = "test"
value = "loss"
[report.in_distribution]
name = "inside"
split = "validation"
value = "loss"
least = 0.0
[report.more.step]
name = "steps"
split = "test"
value = "step"
"""


SLOW_RUN = """
import pathlib, sys, time, signal
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
workdir.mkdir(parents=True, exist_ok=True)
if (workdir / "begun").exists():
    (workdir / "summary.txt").write_text("resumed")
    sys.exit(0)
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
(workdir / "begun").touch()
time.sleep(60)
"""


def run(experiment, scale, *more):
    runs = experiment.parent / "runs"
    return sweep.main([str(experiment), f"--scale={scale}", f"--runs={runs}", *more])


def states(experiment, scale):
    return {trial.name: trial.state for trial in read(experiment, scale).trials}


def read(experiment, scale="tiny"):
    (found,) = spec.read_all(experiment, scale, experiment.parent / "runs")
    return found


def flags(folder, *more):
    width = "toy.width=3,5"
    config = "--config=tests/training/toy_config.py"
    return [config, f"--grid={width}", "--grid=seed=0,1", f"--runs={folder}", *more]
