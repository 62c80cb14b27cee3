"""What a sweep.toml or flags may say; mistakes are named before any run."""

import re

import pytest

from relpos import report, sweep
from relpos.errors import UserError
from relpos.experiments import spec
from relpos.experiments.measures import Report
from relpos.sections import show
from relpos.training import run_config
from tests.experiments.sweeping import ROOT, run


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
