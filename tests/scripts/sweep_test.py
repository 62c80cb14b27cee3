import fcntl
import json
import os
import signal
import sys
import threading
import time

import pytest

from relpos.errors import UserError
from relpos.training import run_config
from tests.scripts.load import script

sweeps = script("sweeps")
sweep = script("sweep")
report = script("report")

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


@pytest.fixture
def experiment(tmp_path):
    folder = tmp_path / "an experiment"
    folder.mkdir()
    (folder / "sweep.toml").write_text(SWEEP.format(config="tests/training/toy_config.py"))
    return folder


def run(experiment, scale, *more):
    runs = experiment.parent / "runs"
    return sweep.main([str(experiment), f"--scale={scale}", f"--runs={runs}", *more])


def states(experiment, scale):
    found = sweeps.read(experiment, scale, experiment.parent / "runs")
    return {run.name: run.state for run in found.runs}


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

    assert report.main([str(experiment)]) == 0
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
    monkeypatch.setattr(sweep, "TRAIN", [sys.executable, "-c", killed])
    assert run(experiment, "tiny") == 1
    assert set(states(experiment, "tiny").values()) == {"failed"}


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_sweep_that_is_stopped_goes_on(experiment, monkeypatch, number):
    fake = experiment.parent / "relpos" / "train.py"
    fake.parent.mkdir()
    fake.write_text(SLOW_RUN)
    monkeypatch.setattr(sweep, "TRAIN", [sys.executable, str(fake)])
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
    monkeypatch.setattr(sweep, "TRAIN", [sys.executable, "-c", "raise SystemExit('begun twice')"])
    found = sweeps.read(experiment, "tiny", experiment.parent / "runs")
    handles = []
    for one in found.runs:
        one.workdir.mkdir(parents=True)
        handles.append((one.workdir / ".lock").open("w"))
        fcntl.flock(handles[-1], fcntl.LOCK_EX)
    assert run(experiment, "tiny") == 130
    assert capsys.readouterr().out.count("in use by another process, left alone") == 2
    assert set(states(experiment, "tiny").values()) == {"waiting"}
    for handle in handles:
        handle.close()


def test_runs_of_an_earlier_sweep_toml_are_named(experiment, capsys):
    found = sweeps.read(experiment, "tiny", experiment.parent / "runs")
    path = found.runs[1].workdir / "config.json"
    path.parent.mkdir(parents=True)
    plain = {"steps": 999, "log_every": 1, "toy": {"width": 5}, "seed": 0}
    path.write_text(json.dumps({"config": plain}))
    assert run(experiment, "tiny") == 2
    told = capsys.readouterr().out.replace("\n", " ")
    assert "steps is 999 there, 2 in sweep.toml" in told
    assert "Remove these run directories" in told
    assert states(experiment, "tiny")["width=3,seed=0"] == "waiting"


def test_a_damaged_run_directory_is_named(experiment, capsys):
    found = sweeps.read(experiment, "tiny", experiment.parent / "runs")
    workdir = found.runs[1].workdir
    workdir.mkdir(parents=True)
    (workdir / "metrics.jsonl").write_bytes(b'{"step": 3}\n{"step": "x"}\n7\n\xff\n')
    assert found.runs[1].step == 3
    (workdir / "config.json").write_text('{"config": 3}')
    assert run(experiment, "tiny") == 2
    assert "config.json', restore it" in capsys.readouterr().out.replace("\n", " ")
    os.mkfifo(workdir / ".lock")
    with pytest.raises(UserError, match="is not a regular file"):
        _ = found.runs[1].in_use
    results = experiment / "results" / "tiny.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text('{"runs": [3]}')
    with pytest.raises(UserError, match="is not what a sweep writes"):
        sweeps.read(experiment, "tiny", experiment.parent / "runs")


@pytest.mark.parametrize(
    "changed",
    [
        {"runs": 3},
        {"runs": [{"point": {}, "state": "finished", "records": [7]}]},
        {"runs": [{"point": {}, "state": "finished", "about": {"seconds": "1"}}]},
        {"scale": None},
        {"set": []},
    ],
)
def test_results_that_no_sweep_wrote_are_named_by_both(experiment, capsys, changed):
    path = experiment / "results" / "tiny.json"
    path.parent.mkdir()
    right = {"scale": "tiny", "config": "c", "set": {}, "runs": []}
    path.write_text(json.dumps(right))
    assert sweeps.read_results(path) == right
    path.write_text(json.dumps(right | changed))
    assert run(experiment, "tiny") == 2
    assert report.main([str(experiment)]) == 2
    assert capsys.readouterr().out.count("is not what a sweep writes") == 2
    path.write_text("[" * 99_999)
    assert report.main([str(experiment)]) == 2
    assert "restore it" in capsys.readouterr().out


def test_figures_of_runs_whose_directories_are_gone_are_kept(experiment, monkeypatch, capsys):
    path = experiment / "results" / "tiny.json"
    kept = {
        "point": {"toy.width": 3, "seed": 0},
        "state": "finished",
        "step": 2,
        "records": [{"split": "test", "loss": 0.25}],
    }
    common = {"steps": 2, "log_every": 1}
    results = {"scale": "tiny", "config": "tests/training/toy_config.py", "set": common}
    path.parent.mkdir()
    path.write_text(json.dumps(results | {"runs": [kept]}))
    finish = SLOW_RUN.replace("time.sleep(60)", '(workdir / "summary.txt").write_text("")')
    monkeypatch.setattr(sweep, "TRAIN", [sys.executable, "-c", finish])
    assert run(experiment, "tiny") == 0
    told = capsys.readouterr().out
    assert "1 finished, 0 failed, 1 to do" in told
    assert "1 finished runs are known only from" in told
    now = json.loads(path.read_text())
    assert now["runs"][0] == kept
    assert [r["state"] for r in now["runs"]] == ["finished", "finished"]
    path.write_text(json.dumps(results | {"set": {"steps": 3}, "runs": [kept]}))
    assert run(experiment, "tiny") == 2
    told = capsys.readouterr().out.replace("\n", " ")
    assert "steps is 3 there, 2 in sweep.toml" in told
    assert json.loads(path.read_text())["runs"] == [kept]


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
    monkeypatch.setattr(sweep, "TRAIN", [sys.executable, "-c", tell])
    assert run(experiment, "tiny", f"--workers={len(before)}") == 0
    files = list((experiment.parent / "runs").glob("*/*/*/cores"))
    given = [set(map(int, path.read_text().split())) for path in files]
    assert [len(cores) for cores in given] == [1, 1]
    assert all("multi_thread_eigen=false" in p.with_name("flags").read_text() for p in files)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale=tinny"], "did you mean 'tiny'"),
        (["--scale=tiny", "--workers=0"], "--workers must be positive"),
    ],
)
def test_mistakes_are_named(experiment, capsys, arguments, message):
    assert sweep.main([str(experiment), *arguments]) == 2
    assert message in capsys.readouterr().out


def test_what_is_no_experiment(tmp_path, capsys):
    with pytest.raises(UserError, match="is no experiment"):
        sweeps.jobs(tmp_path)
    (tmp_path / "sweep.toml").write_text("a = [")
    with pytest.raises(UserError, match=r"sweep\.toml"):
        sweeps.read(tmp_path, "cpu", tmp_path)
    assert report.main([str(tmp_path)]) == 2
    assert "has no figures" in capsys.readouterr().out
    near = tmp_path / "scan"
    near.mkdir()
    (near / "sweep.toml").touch()
    for main in (report.main, sweep.main):
        assert main([str(tmp_path / "scna"), *(["--scale=cpu"] if main is sweep.main else [])]) == 2
        assert "did you mean" in capsys.readouterr().out.replace("\n", " ")


def test_every_experiments_sweeps_are_of_keys_that_there_are(tmp_path):

    experiments = sorted(
        path.parent for path in (script_root() / "experiments").glob("*/README.md")
    )
    folders = [job for experiment in experiments for job in sweeps.jobs(experiment)]
    assert {path.parent for path in (script_root() / "experiments").rglob("sweep.toml")} == set(
        folders
    )
    for folder in folders:
        read = [sweeps.read(folder, scale, tmp_path) for scale in ("smoke", "cpu", "full")]
        asked = set()  # runs of one setting differ by seed and scheme, which any config takes
        for found in read:
            for one in found.runs:
                items = {key: sweeps.spelled(value) for key, value in one.overrides.items()}
                alike = {"seed": "0", "encoding": "none"}
                asked.add((found.config, *sorted((items | alike).items())))
        for config, *items in asked:
            run_config.load(script_root() / config, items)


def script_root():
    from tests.scripts.load import SCRIPTS

    return SCRIPTS.parent
