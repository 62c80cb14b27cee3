"""Runs of a sweep: what is trained, stopped, shown and reported."""

import fcntl
import io
import json
import os
import re
import shlex
import signal
import sys
import threading
import time

import pytest
from rich.console import Console

from relpos import report, sweep
from relpos.errors import UserError
from relpos.experiments import pool, provenance, results, spec
from relpos.runs import Run
from tests.experiments.sweeping import ROOT, SLOW_RUN, flags, read, run, states


def test_a_sweep_runs_skips_what_is_finished_and_is_reported(experiment, capsys):
    assert run(experiment, "tiny") == 0
    results = json.loads((experiment / "results" / "tiny.json").read_text())
    assert [r["point"] for r in results["runs"]] == [
        {"toy.width": w, "seed": s} for w in (3, 5) for s in (0,)
    ]
    assert {r["state"] for r in results["runs"]} == {"finished"}
    assert all(r["records"] for r in results["runs"])
    capsys.readouterr()
    before = {
        path: path.stat().st_mtime_ns for path in experiment.parent.glob("runs/*/*/*/metrics.jsonl")
    }
    assert len(before) == 2
    assert run(experiment, "tiny") == 0
    assert "2 finished, 0 failed, 0 to do" in capsys.readouterr().out
    assert before == {path: path.stat().st_mtime_ns for path in before}

    report.main([str(experiment), f"--runs={experiment.parent / 'runs'}"])
    page = (experiment / "results" / "tiny.md").read_text()
    assert page.count("| finished |") == 2
    about = [run["about"] for run in results["runs"]]
    assert all(one["seconds"] > 0 and one["machine"] in page for one in about)
    assert (experiment / "results" / "tiny.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_fails_is_kept_with_what_it_said_and_the_others_go_on(experiment, capsys):
    assert run(experiment, "broken") == 1
    assert states(experiment, "broken") == {"nan=False": "finished", "nan=True": "failed"}
    results = json.loads((experiment / "results" / "broken.json").read_text())
    (failed,) = (r for r in results["runs"] if r["state"] == "failed")
    assert "nan" in "\n".join(failed["failure"]).lower()
    assert "failed: nan=True" in capsys.readouterr().out
    # It is left alone until it is asked for.
    run(experiment, "broken")
    assert "1 failed, 0 to do" in capsys.readouterr().out
    run(experiment, "broken", "--retry")
    assert "1 failed, 1 to do" in capsys.readouterr().out


def test_a_run_that_is_killed_alone_has_failed(experiment, monkeypatch):
    killed = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(pool, "TRAIN", [sys.executable, "-c", killed])
    assert run(experiment, "tiny") == 1
    assert set(states(experiment, "tiny").values()) == {"failed"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_stopped_goes_on(experiment, monkeypatch, number):
    fake = experiment.parent / "relpos" / "train.py"
    fake.parent.mkdir()
    fake.write_text(SLOW_RUN)
    monkeypatch.setattr(pool, "TRAIN", [sys.executable, str(fake)])
    runs = experiment.parent / "runs"

    def stop_when_one_has_begun():
        while not list(runs.glob("*/*/*/begun")):
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    threading.Thread(target=stop_when_one_has_begun, daemon=True).start()
    assert run(experiment, "tiny", "--workers=1") == 130
    assert signal.getsignal(number) == before
    assert len(list(runs.glob("*/*/*/begun"))) == 1
    assert not list(runs.glob("*/*/*.failed"))
    fake.write_text(SLOW_RUN.replace("time.sleep(60)", '(workdir / "summary.txt").write_text("")'))
    assert run(experiment, "tiny") == 0
    assert set(states(experiment, "tiny").values()) == {"finished"}


def test_a_run_that_another_process_trains_is_left_alone(experiment, monkeypatch, capsys):
    monkeypatch.setattr(pool, "TRAIN", [sys.executable, "-c", "raise SystemExit('begun twice')"])
    handles = []
    for one in read(experiment).trials:
        one.workdir.mkdir(parents=True)
        handles.append((one.workdir / ".lock").open("w"))
        fcntl.flock(handles[-1], fcntl.LOCK_EX)
    assert run(experiment, "tiny") == 130
    assert capsys.readouterr().out.count("in use by another process, left alone") == 2
    assert set(states(experiment, "tiny").values()) == {"waiting"}
    for handle in handles:
        handle.close()


def test_runs_at_once_have_cores_of_their_own(experiment, monkeypatch):
    if not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("wants a system that binds threads to cores, and two of them")
    before = os.sched_getaffinity(0)
    tell = """
import os, pathlib, sys
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
workdir.mkdir(parents=True)
(workdir / "cores").write_text(" ".join(map(str, sorted(os.sched_getaffinity(0)))))
(workdir / "flags").write_text(os.environ.get("XLA_FLAGS", ""))
(workdir / "summary.txt").touch()
"""
    monkeypatch.setattr(pool, "TRAIN", [sys.executable, "-c", tell])
    assert run(experiment, "tiny", f"--workers={len(before)}") == 0
    files = list((experiment.parent / "runs").glob("*/*/*/cores"))
    given = [set(map(int, path.read_text().split())) for path in files]
    assert [len(cores) for cores in given] == [1, 1]
    assert all("multi_thread_eigen=false" in p.with_name("flags").read_text() for p in files)
    assert os.sched_getaffinity(0) == before


def test_a_sweep_of_flags_needs_no_folder_and_goes_on_by_the_same_line(tmp_path, capsys):
    line = flags(tmp_path / "grid", "--config.steps=4", "--config.log_every=1")
    assert sweep.main(line) == 0
    file = tmp_path / "grid" / "results" / "grid.json"
    found = results.read(file)
    assert found["set"] == {"steps": 4, "log_every": 1}
    points = [{"toy.width": width, "seed": seed} for width in (3, 5) for seed in (0, 1)]
    assert [run["point"] for run in found["runs"]] == points
    capsys.readouterr()
    assert sweep.main(line) == 0
    told = capsys.readouterr().out
    assert "4 finished, 0 failed, 0 to do" in told
    assert f"now: python -m relpos.report {tmp_path / 'grid'}\n" in told
    # Another seed needs one run more of each width.
    more = spec.from_flags("tests/training/toy_config.py", ["toy.width=3,5", "seed=0,1,2"],
                           [("steps", "4"), ("log_every", "1")], tmp_path / "grid")  # fmt: skip
    assert [trial.state for trial in more.trials].count("waiting") == 2
    with pytest.raises(UserError, match="steps is 4 there, 5 in the sweep"):
        sweep.main(flags(tmp_path / "grid", "--config.steps=5", "--config.log_every=1"))

    report.main([str(tmp_path / "grid")])
    page = file.with_suffix(".html").read_text()
    (command,) = re.findall(r"<pre>(python -m relpos\.sweep [^<]*)</pre>", page)
    again = shlex.split(command)[3:]
    assert sweep.main(again) == 0
    assert "4 finished, 0 failed, 0 to do" in capsys.readouterr().out
    assert "Training" in page
    assert page.count("<svg ") >= 3
    assert file.with_suffix(".md").read_text().count("| finished |") == 4


def test_a_run_that_was_killed_goes_on_exactly(tmp_path, monkeypatch):
    def line(name):
        config = "--config=tests/training/toy_config.py"
        return [config, "--grid=seed=3", f"--runs={tmp_path / name}", "--config.log_every=1"]

    monkeypatch.setenv("TOY_KILL", "batch 13")
    assert sweep.main(line("killed")) == 1
    monkeypatch.delenv("TOY_KILL")
    killed = Run(tmp_path / "killed" / "seed=3")
    assert 0 < killed.step < 13
    assert sweep.main([*line("killed"), "--retry"]) == 0
    assert sweep.main(line("whole")) == 0
    whole = Run(tmp_path / "whole" / "seed=3")
    for split in ("train", "validation", "test"):
        found, wanted = killed.metrics[split], whole.metrics[split]
        for column in ("step", "loss"):
            assert found[column].tolist() == wanted[column].tolist()


def test_a_terminal_shows_what_runs_and_how_far_it_is(tmp_path):
    found = spec.from_flags("lm", ["seed=0,1"], [("steps", "40")], tmp_path)
    first, second = found.trials
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    progress = sweep._Progress(console, found.trials, lambda trial: trial.name)
    with progress:
        progress.began(first)
        first.workdir.mkdir(parents=True)
        (first.workdir / "metrics.jsonl").write_text('{"step": 10, "split": "train"}\n')
        progress._live.refresh()
        assert progress._share() == pytest.approx(0.25)
        progress._start -= 60  # as if a minute had passed
        assert (
            progress._how_far() == "0 of 2, about 7 min left"
        )  # of two runs a quarter of one is done
        progress.ended(first, "finished")
        progress.began(second)
        progress._live.refresh()
    shown = console.file.getvalue()
    for text in ("seed=0", "step 10 of 40", "seed=0: finished after 0.0 min", "1 of 2", "seed=1"):
        assert text in shown


def test_elsewhere_there_is_a_line_when_a_run_begins_or_ends(tmp_path):
    found = spec.from_flags("lm", ["seed=0,1"], [], tmp_path)
    console = Console(file=io.StringIO())
    with sweep._Progress(console, found.trials, lambda trial: trial.name) as progress:
        for trial in found.trials:
            progress.began(trial)
            progress.ended(trial, "finished")
    lines = console.file.getvalue().splitlines()
    assert lines[0] == "seed=0: begins"
    assert lines[1] == "seed=0: finished after 0.0 min (1 of 2, about 0 min left)"
    assert lines[3] == "seed=1: finished after 0.0 min"
    assert "\x1b" not in console.file.getvalue()


def test_a_run_that_another_process_took_first_has_not_failed(experiment, monkeypatch):
    monkeypatch.setattr(pool, "TRAIN", [sys.executable, "-c", "import sys; sys.exit(3)"])
    told = []
    pool.Pool(1, lambda trial: None, lambda trial, what: told.append(what)).run(
        read(experiment).trials
    )
    assert told == ["in use by another process, left alone"] * 2
    assert not list(experiment.parent.glob("runs/**/*.failed"))


def test_without_git_the_commit_is_unknown(monkeypatch):
    assert provenance.commit() or not (ROOT / ".git").exists()
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() == ""
