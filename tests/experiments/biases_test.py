"""The picture of learned biases, from run directories."""

import io
import shutil

import numpy as np
from rich.console import Console

from relpos import encodings
from relpos.experiments import page, pictures, tables
from relpos.experiments.job import of_runs
from relpos.runs import load_run
from relpos.training import run_config
from relpos.training.loop import train


def test_biases_of_a_checkpoint_are_drawn_and_other_runs_are_omitted(tmp_path):
    runs = [tmp_path / name for name in ("t5", "rope", "lost")]
    options = {
        "steps": 0, "batch_size": 2, "sequence_length": 7, "eval_lengths": "7,11", "eval_examples": 2,
        "test_examples": 2, "model.features": 8, "model.num_heads": 2,
    }  # fmt: skip
    for run in runs[:2]:
        texts = [(key, str(value)) for key, value in (options | {"encoding": run.name}).items()]
        config = run_config.load("configs/algorithmic.py", texts)
        assert train(config, run, Console(file=io.StringIO())) == 0
    shutil.copytree(runs[0], runs[2], ignore=shutil.ignore_patterns("checkpoints"))
    job = of_runs(runs)
    assert tables.markdown(job).startswith(
        "Single runs; commit and machine not recorded. Means are over all runs"
    )
    (drawn,) = pictures.biases(job, pictures.looks([job]))
    (axes,) = drawn.axes
    assert axes.get_title() == "t5: bias of each head"
    assert axes.get_xlabel() == "distance (dotted: trained)"
    *heads, trained = axes.lines
    assert trained.get_xdata() == [7, 7]
    encoding = load_run(runs[0]).model.stack.blocks[0].attention.encoding
    expected = encodings.biases(encoding, np.arange(14))
    np.testing.assert_allclose([line.get_ydata() for line in heads], expected[:2], rtol=1e-6)
    assert np.ptp(expected) > 0
    assert "t5: bias of each head" in page.page("runs", [job], "relpos report")
