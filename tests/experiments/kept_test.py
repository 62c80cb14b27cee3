"""What a sweep finds from before: run directories and results, whole, damaged or of another config."""

import json
import os
import shutil
import sys

import pytest

from relpos import report
from relpos.errors import UserError
from relpos.experiments import job as job_lib
from relpos.experiments import pictures, pool, results
from tests.experiments.sweeping import ROOT, SLOW_RUN, SWEEP, read, run, states


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
    assert "| `b` | 8 | **3.250** | 1 |" in capsys.readouterr().out
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
