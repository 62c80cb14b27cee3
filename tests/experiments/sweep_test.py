import fcntl
import io
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from relpos import report, sweep
from relpos.errors import UserError
from relpos.experiments import job as job_lib
from relpos.experiments import pictures, pool, provenance, results, spec
from relpos.experiments.measures import Report
from relpos.runs import Run
from relpos.sections import show
from relpos.training import run_config

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
    return {trial.name: trial.state for trial in read(experiment, scale).trials}


def read(experiment, scale="tiny"):
    (found,) = spec.read_all(experiment, scale, experiment.parent / "runs")
    return found


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


def test_runs_of_an_earlier_sweep_toml_are_named(experiment):
    path = read(experiment).trials[1].workdir / "config.json"
    path.parent.mkdir(parents=True)
    plain = {"steps": 999, "log_every": 1, "toy": {"width": 5}, "seed": 0}
    path.write_text(json.dumps({"config": plain}))
    with pytest.raises(
        UserError, match=r"steps is 999 there, 2 in the sweep\nRemove these run dir"
    ):
        run(experiment, "tiny")
    assert states(experiment, "tiny")["width=3,seed=0"] == "waiting"


def test_a_damaged_run_directory_is_named(experiment):
    trial = read(experiment).trials[1]
    workdir = trial.workdir
    workdir.mkdir(parents=True)
    (workdir / "metrics.jsonl").write_bytes(b'{"step": 3}\n{"step": "x"}\n7\n\xff\n')
    assert trial.run.last_step == 3
    (workdir / "config.json").write_text('{"config": 3}')
    with pytest.raises(UserError, match=r"config\.json', restore it"):
        run(experiment, "tiny")
    os.mkfifo(workdir / ".lock")
    with pytest.raises(UserError, match="is not a regular file"):
        _ = trial.run.in_use
    path = experiment / "results" / "tiny.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"runs": [3]}')
    with pytest.raises(UserError, match="holds no sweep results"):
        read(experiment)


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
def test_results_that_no_sweep_wrote_are_named_by_both(experiment, changed):
    path = experiment / "results" / "tiny.json"
    path.parent.mkdir()
    right = {"scale": "tiny", "config": "c", "set": {}, "runs": []}
    path.write_text(json.dumps(right))
    assert results.read(path) == right
    path.write_text(json.dumps(right | changed))
    with pytest.raises(UserError, match="holds no sweep results"):
        run(experiment, "tiny")
    with pytest.raises(UserError, match="holds no sweep results"):
        report.main([str(experiment)])
    path.write_text("[" * 99_999)
    with pytest.raises(UserError, match="restore it"):
        report.main([str(experiment)])


def test_figures_of_runs_whose_directories_are_gone_are_kept(experiment, monkeypatch, capsys):
    path = experiment / "results" / "tiny.json"
    kept = {
        "point": {"toy.width": 3, "seed": 0},
        "state": "finished",
        "step": 2,
        "records": [{"split": "test", "loss": 0.25}],
    }
    common = {"steps": 2, "log_every": 1}
    there = {"scale": "tiny", "config": "tests/training/toy_config.py", "set": common}
    path.parent.mkdir()
    path.write_text(json.dumps(there | {"runs": [kept]}))
    finish = SLOW_RUN.replace("time.sleep(60)", '(workdir / "summary.txt").write_text("")')
    monkeypatch.setattr(pool, "TRAIN", [sys.executable, "-c", finish])
    assert run(experiment, "tiny") == 0
    told = capsys.readouterr().out
    assert "1 finished, 0 failed, 1 to do" in told
    assert "1 finished runs are known only from" in told
    now = json.loads(path.read_text())
    assert now["runs"][0] == kept
    assert [r["state"] for r in now["runs"]] == ["finished", "finished"]
    path.write_text(json.dumps(there | {"set": {"steps": 3}, "runs": [kept]}))
    with pytest.raises(UserError, match="steps is 3 there, 2 in the sweep"):
        run(experiment, "tiny")
    assert json.loads(path.read_text())["runs"] == [kept]


def test_a_run_whose_settings_hold_none_is_gone_on_with(experiment):
    """TOML has no None: a sweep.toml says "none", a run directory null."""
    path = experiment / "sweep.toml"
    path.write_text(
        path.read_text().replace('"steps" = 2\n', '"steps" = 2\n"optimizer.clip_norm" = "none"\n')
    )
    assert run(experiment, "tiny") == 0
    (experiment / "results" / "tiny.json").unlink()  # so that the run directories are asked
    assert run(experiment, "tiny") == 0
    assert set(states(experiment, "tiny").values()) == {"finished"}
    path.write_text(path.read_text().replace('"none"', "2.0"))
    (experiment / "results" / "tiny.json").unlink()
    with pytest.raises(UserError, match=r"optimizer\.clip_norm is None there, 2\.0 in the sweep"):
        run(experiment, "tiny")


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale=tinny"], "did you mean 'tiny'"),
        (["--scale=tiny", "--workers=0"], "--workers must be positive"),
        ([], "--scale is missing"),
        (["--scale=tiny", "--config.steps=3"], "leave --config, --grid out"),
    ],
)
def test_mistakes_are_named(experiment, arguments, message):
    with pytest.raises(UserError, match=re.escape(message)):
        sweep.main([str(experiment), *arguments])


def test_what_is_no_experiment(tmp_path):
    with pytest.raises(UserError, match="is no experiment"):
        spec.jobs(tmp_path)
    (tmp_path / "sweep.toml").write_text("a = [")
    with pytest.raises(UserError, match=r"sweep\.toml"):
        spec.read(tmp_path, "cpu", tmp_path)
    with pytest.raises(UserError, match="has no figures"):
        report.main([str(tmp_path)])
    near = tmp_path / "scan"
    near.mkdir()
    (near / "sweep.toml").touch()
    for main in (report.main, sweep.main):
        with pytest.raises(UserError, match="did you mean"):
            main([str(tmp_path / "scna"), "--scale=cpu"])


def flags(folder, *more):
    width = "toy.width=3,5"
    config = "--config=tests/training/toy_config.py"
    return [config, f"--grid={width}", "--grid=seed=0,1", f"--runs={folder}", *more]


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


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["seed"], "--grid takes KEY=VALUE"),
        (["seed="], "--grid takes KEY=VALUE"),
        (["sead=0"], "did you mean 'seed'"),
        (["seed=x"], "must be a whole number"),
        (["seed=0", "seed=1"], "seed is set already"),
        (["steps=1"], "steps is set already"),
    ],
)
def test_a_wrong_axis_is_named(tmp_path, grid, message):
    with pytest.raises(UserError, match=message):
        spec.from_flags("lm", grid, [("steps", "3")], tmp_path)


def test_values_of_an_axis(tmp_path):
    def values(text):
        found = spec.from_flags("lm", [text], [], tmp_path)
        return [trial.point[text.partition("=")[0]] for trial in found.trials]

    assert values("encoding=rope, t5") == ["rope", "t5"]
    assert values("encoding=rope,t5;rope") == ["rope,t5", "rope"]
    assert values("encoding=rope,t5;") == ["rope,t5"]
    assert values("eval_multiples=1,2;4") == [[1, 2], [4]]
    assert values("seed=0,1,0") == [0, 1]
    every = values("encoding=every scheme")
    assert {"rope", "t5", "none"} <= set(every)
    assert "rope_2d" not in every
    (one,) = spec.from_flags("lm", ["data.sources.files.path=a/b c"], [], tmp_path).trials
    assert one.workdir == tmp_path / "path=a_b_c"
    with pytest.raises(UserError, match="share the run directory"):
        spec.from_flags("lm", ["data.sources.files.path=a/b,a_b"], [], tmp_path)


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


def test_run_directories_without_a_sweep_are_compared(tmp_path, capsys, monkeypatch):
    for name, value in (("a", 2.5), ("b", 2.25)):
        (tmp_path / name).mkdir()
        config = {"encoding": "rope", "sequence_length": 8, "seed": 0}
        (tmp_path / name / "config.json").write_text(json.dumps({"config": config}))
        (tmp_path / name / "summary.txt").touch()
        lines = [
            {"step": 3, "split": "test", "length": length, "bits_per_byte": value + length / 16}
            for length in (8, 16)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / name / "metrics.jsonl").write_text(text)
    runs = [str(tmp_path / "a"), str(tmp_path / "b")]
    report.main([*runs, f"--output={tmp_path / 'new' / 'lengths.png'}"])
    assert "| `b` | 8 | **3.25** | 1 |" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["lengths.png"]
    report.main([*runs, f"--output={tmp_path / 'all'}"])
    assert {path.suffix for path in tmp_path.glob("all.*")} == {".md", ".html", ".png"}
    with pytest.raises(UserError, match=r"none of \.md"):
        report.main([*runs, f"--output={tmp_path / 'a.gif'}"])
    with pytest.raises(UserError, match="c' is not a run directory"):
        report.main([*runs, str(tmp_path / "c")])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    report.main([*runs, f"--output={tmp_path / 'plain'}"])
    assert [path.suffix for path in tmp_path.glob("plain.*")] == [".md"]
    assert "plain.html, which needs matplotlib" in capsys.readouterr().out
    monkeypatch.undo()
    job = job_lib.of_runs([tmp_path / "a", tmp_path / "b"])
    (axes,) = pictures.named_lengths(job).axes
    assert [text.get_text() for text in axes.texts] == ["b", "a"]
    assert axes.lines[0].get_xydata().tolist() == [[8, 2.75], [16, 3.25]]


def test_every_experiments_sweeps_are_of_keys_that_there_are(tmp_path):
    experiments = sorted(path.parent for path in (ROOT / "experiments").glob("*/README.md"))
    folders = [job for experiment in experiments for job in spec.jobs(experiment)]
    assert {path.parent for path in (ROOT / "experiments").rglob("sweep.toml")} == set(folders)
    for folder in folders:
        assert Report.of_job(folder)
        found = [spec.read(folder, scale, tmp_path) for scale in ("smoke", "cpu", "full")]
        asked = set()  # runs of one setting differ by seed and scheme, which any config takes
        for each in found:
            for one in each.trials:
                items = {key: show(value) for key, value in one.overrides.items()}
                alike = {"seed": "0", "encoding": "none"}
                asked.add((each.config, *sorted((items | alike).items())))
        for config, *items in asked:
            run_config.load(ROOT / config, items)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('[set]\n"steps"', '[sets]\n"steps"', "unknown key 'sets': did you mean 'set'"),
        ('"steps" = 2', '"stps" = 2', "unknown config key 'stps': did you mean 'steps'"),
        ('"seed" = [0]', '"seed" = ["a"]', "config key 'seed' must be"),
        ('better = "lower"', 'better = "less"', "better = 'less'"),
        ('title = "a toy"', "", r"\[report\] has no 'title'"),
        ('[scales.tiny.axes]', '[scales.tiny]\naxes = ["rope"]\n[x]', "unknown key 'x'"),
        ('[scales.broken.axes]', '[scales.tiny.axe]', r"\[scales.tiny\] has an unknown key 'axe'"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_sweep_is_named_before_any_run(experiment, before, after, message):
    file = experiment / "sweep.toml"
    file.write_text(file.read_text().replace(before, after))
    with pytest.raises(UserError, match=rf"sweep\.toml.*{message}"):
        run(experiment, "tiny")
    assert not (experiment.parent / "runs").exists()


def test_a_sweep_without_a_report_section_is_reported_by_its_main_measure(experiment):
    file = experiment / "sweep.toml"
    file.write_text(file.read_text().partition("[report]")[0])
    assert run(experiment, "tiny") == 0
    report.main([str(experiment), f"--runs={experiment.parent / 'runs'}"])
    page = (experiment / "results" / "tiny.md").read_text()
    assert page.count("| finished |") == 2
    assert "Means are over all runs" in page


def test_a_config_that_has_changed_since_a_run_is_told(experiment):
    own = experiment.parent / "own.py"
    own.write_text((ROOT / "tests/training/toy_config.py").read_text())
    (experiment / "sweep.toml").write_text(SWEEP.format(config=own))
    assert run(experiment, "tiny") == 0
    own.write_text(own.read_text().replace('"sequence_length": 8', '"sequence_length": 9'))
    with pytest.raises(UserError, match=r"sequence_length is \d+ there, 9 in the sweep"):
        run(experiment, "tiny")


def test_figures_that_only_the_results_have_are_not_dropped(experiment):
    assert run(experiment, "tiny") == 0
    file = experiment / "sweep.toml"
    file.write_text(file.read_text().replace("[3, 5]", "[3]"))
    assert len(read(experiment).trials) == 1  # the other run's directory is there
    shutil.rmtree(experiment.parent / "runs")
    with pytest.raises(UserError, match=r"alone has the figures of 1 finished runs .*width=5"):
        read(experiment)


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
