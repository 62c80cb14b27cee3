"""Dropping the encoding: before, at and after the switch, and in loaded runs."""

import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import evaluate, predict
from relpos.encodings import scheme
from relpos.errors import UserError
from relpos.runs import load_run
from relpos.training import loop, run_config
from relpos.training.optimizer import create_optimizer
from relpos.training.step import continued, init_state
from relpos.training.task import create_task

SMALL = {
    "steps": 5,
    "batch_size": 2,
    "sequence_length": 16,
    # Parameters of the input, of one layer and of both.
    "encoding": "learned+t5,bam",
    "encodings.learned.max_length": 16,
    "drop_encoding_at": 3,
    "model.num_layers": 2,
    "model.features": 16,
    "model.num_heads": 2,
    "log_every": 1,
    "eval_every": 3,
    "eval_multiples": "1,2",
    "checkpoint_every": 1,
    "sample.max_tokens": 0,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_bytes(b"".join(b"Line %d of a text.\r\n" % n for n in range(200)))
    return path


def small(text, **overrides):
    chosen = SMALL | {"data.source": "files", "data.sources.files.path": text} | overrides
    return run_config.load("configs/lm.py", [(key, str(value)) for key, value in chosen.items()])


def run(config, workdir):
    console = Console(file=io.StringIO(), width=100)
    assert loop.train(config, workdir, console) == 0
    return console.file.getvalue()


def records(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in lines]


def parameters(workdir, step=None):
    return nnx.to_flat_state(nnx.state(load_run(workdir, step).model))


def is_of_encoding(path):
    return "encoding" in path or "input_encodings" in path


@pytest.fixture(scope="module")
def reference(tmp_path_factory, text):
    workdir = tmp_path_factory.mktemp("reference run")
    return workdir, run(small(text), workdir)


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    "at", [pytest.param(2, marks=pytest.mark.long), 3, pytest.param(4, marks=pytest.mark.long)]
)
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    reference, text, tmp_path, monkeypatch, at
):
    """Before, at and after the switch; the last two checkpoints are of this step and the one before."""
    workdir, take = tmp_path / "run", loop._Run._take_step

    def die(self):
        if self.step == at:
            raise KilledError
        take(self)

    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_take_step", die)
        with pytest.raises(KilledError):
            run(small(text), workdir)
    for step in (at - 1, at):
        has = [path for path, _ in parameters(workdir, step) if is_of_encoding(path)]
        assert bool(has) == (step < 3)
    printed = run(small(text), workdir)
    assert f"resuming at step {at}" in printed
    assert ("step 3: from here on without the encoding" in printed) == (at < 3)
    assert records(workdir) == records(reference[0])
    for (path, found), (same, expected) in zip(
        parameters(workdir), parameters(reference[0]), strict=True
    ):
        assert path == same
        np.testing.assert_array_equal(found[...], expected[...])


def test_a_run_says_so_and_is_evaluated_and_sampled_without(reference, text, tmp_path, capfdbinary):
    workdir, printed = reference
    assert "step 3: from here on without the encoding" in printed
    assert "none,none on test" in printed
    # `learned` has no positions for the longer windows, so the encoding must be gone.
    assert [r["length"] for r in records(workdir) if r["split"] == "test"] == [16, 32]
    validation = {r["step"]: r["loss"] for r in records(workdir) if r["split"] == "validation"}
    loaded = load_run(workdir)
    task, model, step = loaded.task, loaded.model, loaded.step
    assert (step, model.max_length, model.config.encodings) == (5, None, ("none", "none"))
    assert loop.evaluate(task, model, "validation", brief=True)[0]["loss"] == pytest.approx(
        validation[5], rel=1e-6
    )
    scores = tmp_path / "scores.json"
    evaluate.main([f"--workdir={workdir}", "--lengths=64", f"--json={scores}"])
    assert json.loads(scores.read_text())[0]["length"] == 64
    capfdbinary.readouterr()
    predict.main([f"--workdir={workdir}", "The ", "--max_tokens=2"])
    assert capfdbinary.readouterr().out.startswith(b"The ")


def test_up_to_the_switch_it_is_the_run_that_keeps_its_encoding(reference, text, tmp_path):
    run(small(text, drop_encoding_at="none"), tmp_path)
    kept, dropped = (
        [r["loss"] for r in records(where) if r["split"] == "train"]
        for where in (tmp_path, reference[0])
    )
    assert kept[:3] == dropped[:3]
    assert kept[3] != dropped[3]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_what_is_left_goes_on_with_its_numbers_and_moments(text, tmp_path, optimizer):
    config = small(text, **{"optimizer.name": optimizer})
    task = create_task(config, tmp_path)
    tx = create_optimizer(config.optimizer, 5)
    _, before = init_state(task, tx, jax.random.key(0))
    before = jax.tree.map(lambda x: x + 1 if x.dtype == "float32" else x, before)
    graphdef, after = continued(task.without_encoding(), tx, before)
    before, after = (dict(nnx.to_flat_state(state)) for state in (before, after))
    gone = before.keys() - after.keys()
    assert gone == {path for path in before if is_of_encoding(path)}
    assert {path[0] for path in gone} == {0, 1}  # of the model and of the optimizer
    for path, x in after.items():
        jax.tree.map(np.testing.assert_array_equal, x, before[path])  # Muon's masks have no array
    model, _ = nnx.merge(graphdef, nnx.from_flat_state(after.items()))
    assert not any(isinstance(m, scheme("t5")) for _, m in nnx.iter_graph(model))


REFUSED = [
    ({"drop_encoding_at": 6}, "must be a step of the run, 1 to 5, got 6"),
    ({"drop_encoding_at": -1}, "must be a whole number of at least 1, or none, got -1"),
    ({"encoding": "none,none"}, "encoding='none,none' has nothing to drop"),
    ({"encoding": "rope", "positions": "randomized"}, "positions='randomized' would still encode"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_before_the_first_step(text, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        run(small(text, **overrides), tmp_path / "run")
    assert not list((tmp_path / "run").glob("checkpoints"))


def test_a_task_that_cannot_is_refused_before_the_first_step(toy_config, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config(type(toy_config())):
        drop_encoding_at: int | None = 3

    config = Config(**vars(toy_config()))
    with pytest.raises(UserError, match=r"task 'tests.training.toy' has no without_encoding\(\)"):
        run(config, tmp_path / "run")
