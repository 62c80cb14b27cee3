import importlib
import io
import json
import os
import shutil
import signal

import jax
import optax
import pytest
from rich.console import Console

from relpos.errors import UserError
from relpos.runs import load_run
from relpos.training import loop
from relpos.training.checkpoints import Checkpoints
from relpos.training.metrics_log import MetricsLog
from relpos.training.task import Case


def run(config, workdir):
    """Trains; returns the exit code and what was printed."""
    console = Console(file=io.StringIO(), width=80)
    code = loop.train(config, workdir, console)
    return code, console.file.getvalue()


def records(workdir):
    """Returns metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "tokens_per_second"}
        for line in lines
    ]


def checkpoint_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def reference(tmp_path_factory, toy_config):
    """The run directory and the output of one uninterrupted run."""
    workdir = tmp_path_factory.mktemp("reference run")
    code, printed = run(toy_config(), workdir)
    assert code == 0
    return workdir, printed


@pytest.fixture
def toy_moments(toy_config, monkeypatch):
    """Lets a test act at moments of the toy task: 'compile', 'batch N', 'save'."""
    toy = importlib.import_module("tests.training.toy")
    monkeypatch.setenv("TOY_KILL", "never")

    def install(act):
        monkeypatch.setattr(toy, "die_at", act)

    return install


def test_a_run_reports_trains_and_keeps(reference):
    workdir, printed = reference
    lines = records(workdir)
    assert [(line["step"], line["split"]) for line in lines] == [
        (4, "train"),
        (8, "train"),
        (10, "validation"),
        (12, "train"),
        (16, "train"),
        (20, "train"),
        (20, "validation"),
        (20, "test"),
    ]
    for line in lines:
        if line["split"] == "train":
            assert {"loss", "bits_per_byte", "gradient_norm", "learning_rate"} <= set(line)
    assert lines[0]["loss"] > lines[4]["loss"] + 0.5
    assert checkpoint_steps(workdir) == [15, 20]
    assert printed.count("step ") >= 7
    assert "\x1b" not in printed
    assert printed.endswith((workdir / "summary.txt").read_text())


def plan_of(workdir):
    return [
        "model      195 parameters, 2.4 kB with the optimizer",
        "device     cpu",
        "corpus     counting",
        "steps      20 of 4 x 8 tokens at most",
        f"writes to  {workdir}",
    ]


def test_a_run_says_what_it_is_about_to_do_before_the_first_step(reference):
    workdir, printed = reference
    lines = printed.splitlines()
    assert lines[:5] == plan_of(workdir)
    assert lines[5] == "compiling the training step ..."


def test_the_same_seed_gives_the_same_losses_and_another_one_others(
    reference, toy_config, tmp_path
):
    run(toy_config(steps=20, checkpoint_every=100), tmp_path / "again")
    assert records(tmp_path / "again") == records(reference[0])
    run(toy_config(seed=1), tmp_path / "other")
    assert records(tmp_path / "other")[0]["loss"] != records(reference[0])[0]["loss"]


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGINT, 130, "batch 7"),
        (signal.SIGTERM, 143, "save"),
        (signal.SIGHUP, 129, "batch 7"),
    ],
)
def test_a_signal_saves_and_the_same_call_goes_on_as_if_nothing_had_been(
    reference, toy_config, toy_moments, tmp_path, number, code, moment
):
    toy_moments(lambda now: os.kill(os.getpid(), number) if now == moment else None)
    before = signal.getsignal(number)
    stopped, printed = run(toy_config(), tmp_path)
    assert stopped == code
    step = 7 if moment == "batch 7" else 5
    assert f"stopped at step {step}, saved; the same command resumes it" in printed
    assert checkpoint_steps(tmp_path)[-1] == step
    assert signal.getsignal(number) is before
    assert not (tmp_path / "summary.txt").exists()

    toy_moments(lambda now: None)
    finished, printed = run(toy_config(log_every=4, checkpoint_every=7), tmp_path)
    assert finished == 0
    lines = printed.splitlines()
    assert lines[:6] == [*plan_of(tmp_path), f"resuming at step {step}"]
    assert records(tmp_path) == records(reference[0])


def test_a_signal_during_the_evaluation_stops_at_once_and_it_is_made_up_for(
    reference, toy_config, toy_moments, tmp_path
):
    moments = []

    def act(now):
        moments.append(now)
        if now == "compile" and moments.count("compile") == 2:  # the evaluation's
            os.kill(os.getpid(), signal.SIGINT)

    toy_moments(act)
    code, printed = run(toy_config(), tmp_path)
    assert code == 130
    assert "stopped at step 10" in printed
    assert records(tmp_path)[-1]["step"] == 8
    toy_moments(lambda now: None)
    run(toy_config(), tmp_path)
    assert records(tmp_path) == records(reference[0])


def test_a_finished_run_prints_its_summary_and_does_nothing(reference, toy_config, monkeypatch):
    workdir, printed = reference
    before = (workdir / "metrics.jsonl").read_text()
    monkeypatch.setattr(loop, "create_task", None)
    code, again = run(toy_config(), workdir)
    assert code == 0
    assert "is finished, step 20" in again
    assert again.splitlines()[-1] == printed.splitlines()[-1]
    assert (workdir / "metrics.jsonl").read_text() == before


def test_a_summary_is_shown_without_escape_codes(reference, toy_config, tmp_path):
    shutil.copytree(reference[0], tmp_path / "run")
    (tmp_path / "run" / "summary.txt").write_bytes(b"\x1b[2Ja\tline\nand \xff another\n")
    _, again = run(toy_config(), tmp_path / "run")
    shown = [line.expandtabs() for line in again.splitlines()[1:]]
    assert shown == [(r"\x1b[2Ja" + "\tline").expandtabs(), "and \ufffd another"]
    (tmp_path / "run" / "summary.txt").unlink()
    os.mkfifo(tmp_path / "run" / "summary.txt")
    with pytest.raises(UserError, match=r"summary\.txt' is not a regular file"):
        run(toy_config(), tmp_path / "run")


def test_no_steps_still_evaluate_keep_and_finish(toy_config, tmp_path):
    assert run(toy_config(steps=0), tmp_path)[0] == 0
    assert [line["split"] for line in records(tmp_path)] == ["validation", "test"]
    assert load_run(tmp_path, trust_code=True).step == 0


def test_a_loss_that_is_not_finite_is_never_saved(toy_config, tmp_path):
    config = toy_config(toy__nan=True, checkpoint_every=1)
    with pytest.raises(loop.DivergenceError) as caught:
        run(config, tmp_path)
    message = str(caught.value)
    step = checkpoint_steps(tmp_path)[-1]
    assert f"loss is nan at step {step + 1}; the last checkpoint, step {step}," in message
    assert "optimizer.learning_rate" in message
    model = load_run(tmp_path, trust_code=True).model
    assert all(bool(jax.numpy.isfinite(leaf).all()) for leaf in jax.tree.leaves(model))
    with pytest.raises(loop.DivergenceError, match=f"at step {step + 1};"):  # and again
        run(config, tmp_path)


def test_an_optimizer_that_is_not_finite_is_never_saved(toy_config, tmp_path, monkeypatch):
    """Loss, gradients and parameters may stay finite while it overflows."""

    def overflowing(options, steps):
        def update(updates, moment, params=None):
            return updates, moment * 1e6  # 1e36 after six steps

        growing = optax.GradientTransformation(lambda params: jax.numpy.ones(()), update)
        return optax.chain(growing, optax.sgd(0.1))

    monkeypatch.setattr(loop, "create_optimizer", overflowing)
    with pytest.raises(
        loop.DivergenceError,
        match=r"the optimizer's state is inf at step 7; the last checkpoint, step 6,",
    ):
        run(toy_config(checkpoint_every=1), tmp_path)
    assert checkpoint_steps(tmp_path) == [5, 6]


def test_metrics_that_were_lost_are_told_on_resuming(toy_config, toy_moments, tmp_path):
    toy_moments(lambda now: os.kill(os.getpid(), signal.SIGINT) if now == "batch 9" else None)
    run(toy_config(), tmp_path)
    assert len(records(tmp_path)) == 2
    (tmp_path / "metrics.jsonl").write_text("")
    toy_moments(lambda now: None)
    code, printed = run(toy_config(), tmp_path)
    assert code == 0
    path = str(tmp_path / "metrics.jsonl")
    unwrapped = printed.replace("\n", "")
    assert f"resuming at step 9{path!r} has lost 2 of its 2 lines; the run goes on" in unwrapped
    assert records(tmp_path)[0]["step"] == 10


@pytest.mark.parametrize("name", ["MetricsLog", "RunProgress"])
def test_a_run_that_cannot_be_opened_closes_what_it_had(toy_config, tmp_path, monkeypatch, name):
    def refuse(*args, **kwargs):
        raise UserError("no more")

    closed = []
    close = Checkpoints.close
    monkeypatch.setattr(Checkpoints, "close", lambda self: (closed.append(self), close(self)))
    close_log = MetricsLog.close
    monkeypatch.setattr(MetricsLog, "close", lambda self: (closed.append(self), close_log(self)))
    monkeypatch.setattr(f"relpos.training.loop.{name}", refuse)
    with pytest.raises(UserError, match="no more"):
        run(toy_config(), tmp_path)
    kinds = [type(one) for one in closed]
    assert kinds == ([Checkpoints] if name == "MetricsLog" else [MetricsLog, Checkpoints])


def test_a_run_that_never_began_leaves_the_directory_free(toy_config, toy_moments, tmp_path):
    def act(now):
        if now == "compile":
            raise UserError("3 heads do not divide 7")

    toy_moments(act)
    with pytest.raises(UserError, match="do not divide"):
        run(toy_config(), tmp_path)
    toy_moments(lambda now: None)
    assert run(toy_config(log_every=5), tmp_path)[0] == 0


def test_a_run_that_does_not_fit_into_memory_is_refused_before_anything_is_made(
    toy_config, tmp_path
):
    with pytest.raises(UserError, match=r"needs at least .* TB of memory.*out\.kernel|embed"):
        run(toy_config(toy__width=2 * 10**9), tmp_path)
    assert not (tmp_path / "config.json").exists()
    assert not (tmp_path / "checkpoints").exists()


def test_another_config_is_refused_and_the_run_stays(reference, toy_config):
    before = (reference[0] / "metrics.jsonl").read_text()
    with pytest.raises(UserError, match=r"toy\.width: 7 there, 9 asked for"):
        run(toy_config(toy__width=9), reference[0])
    assert (reference[0] / "metrics.jsonl").read_text() == before


def test_another_corpus_is_refused_on_resuming(toy_config, toy_moments, tmp_path):
    toy_moments(lambda now: os.kill(os.getpid(), signal.SIGINT) if now == "batch 2" else None)
    run(toy_config(), tmp_path)
    config_json = json.loads((tmp_path / "config.json").read_text())
    config_json["corpus"]["sha256"] = "xyz"
    (tmp_path / "config.json").write_text(json.dumps(config_json))
    with pytest.raises(UserError, match=r"corpus\.sha256: 'xyz' there, 'abc' asked for"):
        run(toy_config(), tmp_path)


def test_the_loop_moves_nothing_to_the_device_by_accident(toy_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.jax, "device_put", lambda batch, *_: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        run(toy_config(), tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("steps", -1), ("batch_size", 0), ("log_every", 0), ("seed", -1), ("seed", 2**32)],
)
def test_senseless_numbers_are_refused_before_anything_is_made(toy_config, tmp_path, key, value):
    with pytest.raises(UserError, match=f"config key '{key}' must be"):
        run(toy_config(**{key: value}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_on_a_terminal_the_summary_has_the_tables_without_the_bars(toy_config, tmp_path):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={})
    assert loop.train(toy_config(steps=1), tmp_path, console) == 0
    assert "evaluating" in console.file.getvalue()
    summary = (tmp_path / "summary.txt").read_text()
    assert "that was all" in summary
    assert "loss" in summary
    assert "evaluating" not in summary
    assert "\u2501" * 10 not in summary


def test_the_first_step_which_is_compiled_has_no_speed(toy_config, tmp_path):
    loop.train(toy_config(steps=3, log_every=1), tmp_path, Console(quiet=True))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    told = [line["step"] for line in lines if "tokens_per_second" in line]
    assert told == [2, 3]


def test_a_case_without_a_score_is_told_once(toy_config, tmp_path, monkeypatch):
    toy = importlib.import_module("tests.training.toy")

    def cases(self, model, split, *, lengths, brief):
        def refuse():
            raise UserError("no length of 99")

        return [Case({"length": 99}, refuse)] if split == "validation" else []

    monkeypatch.setattr(toy.Toy, "cases", cases)
    _, printed = run(toy_config(steps=4, eval_every=2), tmp_path)
    assert printed.count("no length of 99") == 1


def test_another_number_of_devices_is_told(toy_config, tmp_path):
    run(toy_config(), tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(stored | {"devices": 99}))
    (tmp_path / "summary.txt").unlink()
    _, printed = run(toy_config(), tmp_path)
    assert "the run began on 99 devices, now it has" in printed
