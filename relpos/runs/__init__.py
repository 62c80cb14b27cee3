"""Run directories as objects: ``run = relpos.load_run("runs/lm")``."""

from relpos.runs.run import Run as Run
from relpos.runs.run import load_run as load_run
