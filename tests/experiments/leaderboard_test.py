"""The table of several jobs: the ranking, and what it says about runs that have not learned."""

import json
from pathlib import Path

import pytest

from relpos import report
from relpos.experiments import leaderboard, page, pictures
from relpos.experiments.job import Job
from relpos.experiments.measures import Report

ROOT = Path(__file__).parents[2]
INSIDE = {"name": "inside", "split": "test", "value": "accuracy", "multiple": 1}
REPORT = {
    "x": "sequence_length",
    "series": "encoding",
    "title": "a job",
    "better": "higher",
    "result": {"name": "right, %", "split": "test", "value": "accuracy", "multiple": 4},
    "in_distribution": INSIDE | {"least": 90},
}


def job(name, figures, **changed):
    """Runs of schemes: each (inside, beyond), or None where it has not finished."""
    runs = [
        {
            "point": {"sequence_length": 8, "seed": seed, "encoding": scheme},
            "state": "finished" if run else "begun",
            "tokens_per_second": 100.0 + 10 * len(scheme),
            "records": [
                {"split": "test", "length": 8 * multiple, "accuracy": value}
                for multiple, value in zip((1, 4), run or (), strict=False)
            ],
        }
        for scheme, seeds in figures.items()
        for seed, run in enumerate(seeds)
    ]
    results = {"scale": "cpu", "config": "configs/algorithmic.py", "set": {}, "runs": runs}
    return Job(name, Report.of_section(REPORT | changed, name), results)


A = {"none": [(99, 50), (98, 54)], "rope": [(99, 40), (60, 10)], "t5": [(99, 70), (97, 90)]}
LOWER = {"better": "lower", "in_distribution": INSIDE | {"most": 3}}
B = {"none": [(2, 5.0)], "rope": [(2, 4.0)], "alibi": [(9, 1.0)]}


def test_the_scheme_that_beats_most_of_the_others_comes_first():
    jobs = [job("a", A), job("b", B, **LOWER)]
    # a: t5 80, none 52, rope 40 of its one run that has learned; b: rope 4, none 5, alibi has not learned.
    assert leaderboard.ranking(jobs) == {"t5": 1.0, "none": 0.5, "rope": 0.5, "alibi": 0.0}
    assert [jobs[0].mean(scheme) for scheme in ("t5", "none", "rope")] == [80, 52, 40]
    tie = job("a", {"none": [(99, 7)], "rope": [(99, 7)], "t5": [(99, 9)]})
    assert leaderboard.ranking([tie]) == {"t5": 1.0, "none": 0.25, "rope": 0.25}


def test_a_cell_has_mean_and_deviation_and_counts_those_that_have_learned():
    jobs = [job("a", A), job("b", B, **LOWER)]
    assert leaderboard.cell(jobs[0], "t5") == "**80.0** ± 14.1 (98.0)"
    assert leaderboard.cell(jobs[0], "none") == "52.0 ± 2.8 (98.5)"
    assert leaderboard.cell(jobs[0], "rope") == "40.0 (79.5), 1 of 2 learned"
    assert leaderboard.cell(jobs[0], "alibi") == "cannot"
    assert leaderboard.cell(jobs[1], "alibi") == "- (9.0), 0 of 1 learned"
    assert leaderboard.cell(jobs[1], "rope") == "**4.0** (2.0)"
    assert leaderboard.cell(job("a", {"none": [None]}), "none") == "not finished"
    begun = job("a", {"none": [(99, 7), None]})
    assert leaderboard.cell(begun, "none") == "**7.0** (99.0), 1 of 2 finished"
    begun = job("a", {"none": [(9, 7), None]})
    assert leaderboard.cell(begun, "none") == "- (9.0), 0 of 1 learned, 1 of 2 finished"


def test_the_page_has_a_row_for_each_scheme_with_its_costs():
    page = leaderboard.markdown([job("a", A), job("b", B, **LOWER)])
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert [row.split("`")[1] for row in rows] == ["t5", "none", "rope", "alibi"]
    # t5 has a table of 32 buckets for each of 4 heads in the one encoding that the layers share.
    assert rows[0].endswith("| 0.86x | 128 |")
    assert rows[1].endswith("| 1.00x | 0 |")
    assert rows[3].endswith("| - | - |")


def test_runs_at_several_x_are_no_repetitions_of_one_another():
    one, several = job("a", A), job("b", B, **LOWER)
    assert leaderboard.suits([one, several])
    assert "beats" in page.page("both", [one, several], "")
    several.results["runs"][0]["point"]["sequence_length"] = 16
    several = Job("b", several.report, several.results)
    assert not leaderboard.suits([one, several])
    assert "beats" not in page.page("both", [one, several], "")


def test_jobs_of_different_commits_are_named_with_them():
    one, two, three = job("a", A), job("b", B, **LOWER), job("c", A)
    for told, commit in ((one, "1a"), (two, "2b"), (three, "1a")):
        told.results["runs"][0]["about"] = {"commit": commit, "machine": "x", "seconds": 1}
    made = "a, c: commit 1a; x; b: commit 2b; x."
    assert f"Scale cpu; {made}" in leaderboard.markdown([one, two, three])
    assert f"Scale cpu; {made}" in page.page("all", [one, two, three], "")
    assert "Scale cpu; commit 1a; x." in leaderboard.markdown([one, three])


@pytest.mark.parametrize("costs", [False, True])
def test_costs_are_of_the_job_that_says_so(costs):
    second = job("b", B, **LOWER, costs=costs)
    page = leaderboard.markdown([job("a", A), second])
    assert f"the median over the runs of {'b' if costs else 'a'}." in page


def test_the_picture_has_a_panel_for_each_job():
    jobs = [job("a", A), job("b", B, **LOWER)]
    drawn = pictures.board(jobs, pictures.looks(jobs))
    first, second = drawn.axes
    crosses = [line.get_xdata()[0] for line in first.lines if line.get_marker() == "x"]
    assert crosses == [10]
    assert "lower is better" in second.get_title()
    assert [label.get_text() for label in first.get_yticklabels()] == [
        "t5",
        "none",
        "rope",
        "alibi",
    ]


def test_an_experiment_of_several_jobs_has_one_page_and_tables_of_each(tmp_path, capsys):
    section = (ROOT / "experiments/every_scheme/reverse/sweep.toml").read_text()
    for name in ("one", "two"):
        (tmp_path / name / "results").mkdir(parents=True)
        (tmp_path / name / "sweep.toml").write_text(section)
        runs = [
            {"point": {"sequence_length": 16, "seed": 0, "encoding": scheme}, "state": "finished",
             "records": [{"split": "test", "length": 16, "accuracy": 0.95},
                         {"split": "test", "length": 32, "accuracy": value}]}
            for scheme, value in (("rope", 0.5), ("t5", 0.75))
        ]  # fmt: skip
        common = {"data.source": "reverse"}
        results = {"scale": "cpu", "config": "algorithmic", "set": common, "runs": runs}
        (tmp_path / name / "results" / "cpu.json").write_text(json.dumps(results))
    report.main([str(tmp_path), f"--runs={tmp_path / 'runs'}"])
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("cpu.*")}
    jobs = {
        f"{name}/results/cpu.{kind}" for name in ("one", "two") for kind in ("json", "md", "png")
    }
    assert found == jobs | {f"results/cpu.{kind}" for kind in ("md", "png", "html")}
    board = (tmp_path / "results" / "cpu.md").read_text()
    assert "| `t5` | 100% | **75.0** (95.0) | **75.0** (95.0) |" in board
    page = (tmp_path / "results" / "cpu.html").read_text()
    assert "<h2>one</h2>" in page
    assert f"python -m relpos.sweep {tmp_path} --scale cpu" in page
    report.main([str(tmp_path / "one")])
    assert (tmp_path / "one" / "results" / "cpu.html").exists()
