"""What the figures of a job mean, and how they are shown."""

import re

import numpy as np
import pytest

from relpos.errors import UserError
from relpos.experiments import job as job_lib
from relpos.experiments import page, pictures, tables
from relpos.experiments.job import Job
from relpos.experiments.measures import Measure, Report

REPORT = {
    "x": "seed",
    "series": "toy.width",
    "title": "a toy",
    "better": "higher",
    "result": {"name": "result", "split": "test", "value": "loss"},
    "in_distribution": {"name": "inside", "split": "validation", "value": "loss", "least": 95.0},
}


def results_of(*runs):
    return {
        "scale": "cpu",
        "config": "tests/training/toy_config.py",
        "set": {},
        "runs": [
            {
                "point": {"toy.width": width, "seed": seed},
                "state": "finished" if inside is not None else "failed",
                "records": []
                if inside is None
                else [
                    {"split": "test", "loss": result},
                    {"split": "validation", "loss": inside},
                ],
            }
            for width, seed, inside, result in runs
        ],
    }


def job_of(section, results):
    return Job("a job", Report.of_section(section, "sweep.toml"), results)


def test_means_leave_out_what_has_not_learned_and_say_so():
    asked = REPORT | {"better": "higher", "x": "toy.width"}
    results = results_of(
        (3, 0, 99, 40), (3, 1, 50, 0), (3, 2, 95, 60), (5, 0, None, None), (5, 1, 96, 7)
    )
    job = job_of(asked, results)
    three, five = job.means[3, 3], job.means[5, 5]
    assert (three.values, three.mean, three.deviation) == ((40, 60), 50, 200**0.5)
    assert (three.not_learned, three.not_finished, three.best) == (1, 0, False)
    assert (five.values, five.mean, five.deviation) == ((7,), 7, None)
    assert (five.not_learned, five.not_finished, five.best) == (0, 1, False)
    text = tables.markdown(job)
    assert "| `3` | 3 | 50 ± 14 | 2 | 40 to 60 | 1 | 0 |" in text
    assert "| `5` | 5 | 7 | 1 | - | 0 | 1 |" in text
    assert "| 3 | 1 | finished | - | 50 | 0 |" in text
    assert "| 5 | 0 | failed | - | - | - |" in text


def test_a_figure_is_of_the_record_that_is_asked_for():
    records = [{"split": "test", "length": n, "accuracy": n / 100} for n in (10, 20, 30)]
    records.append({"split": "longer", "length": 20, "accuracy": 0.9})
    asked = {"name": "a", "split": "test", "length": 20, "value": "accuracy", "times": 100}
    assert Measure.of_section(asked).of(records) == 20
    assert Measure.of_section(asked | {"length": 40}).of(records) is None
    assert Measure("a", "accuracy", {"split": "test"}, multiple=3).of(records, 10) == 0.3


@pytest.mark.parametrize("one", [True, False])
def test_a_picture_of_one_x_or_several(one):
    results = results_of(*((w, s, 99, w + s) for w in (3, 5) for s in ((0,) if one else (0, 1, 2))))
    job = job_of(REPORT, results)
    (axes,) = pictures.results(job, pictures.looks([job])).axes
    assert "higher is better" in (axes.get_xlabel() if one else axes.get_ylabel())
    ticks = axes.get_yticklabels() if one else axes.get_xticklabels()
    assert [text.get_text() for text in ticks] == (["5", "3"] if one else ["0", "1", "2"])


def test_the_mean_of_seeds_has_a_band_and_what_has_not_learned_is_a_cross():
    asked = REPORT | {"x": "toy.width", "series": "kind"}
    results = results_of(*((w, s, 99, w + s) for w in (3, 5, 7) for s in (0, 1)), (7, 2, 50, 1))
    for run in results["runs"]:
        run["point"] = {"kind": "a"} | run["point"]
    job = job_of(asked, results)
    (axes,) = pictures.results(job, pictures.looks([job])).axes
    curves = [line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata()) == 3]
    assert curves == [[3.5, 5.5, 7.5]]
    assert [line.get_ydata() for line in axes.lines if line.get_marker() == "x"] == [[1]]
    assert [text.get_text() for text in axes.texts] == ["a"]
    (band,) = axes.collections
    (corners,) = (path.vertices for path in band.get_paths())
    np.testing.assert_allclose(corners[:, 1].min(), 3.5 - 0.5**0.5)


@pytest.mark.parametrize(
    ("deviation", "digits"), [(14.1, 0), (9.96, 0), (8.3, 1), (0.25, 2), (0.0996, 2), (0.021, 3)]
)
def test_two_digits_of_a_deviation_are_shown(deviation, digits):
    assert job_lib.decimals(deviation) == digits


def test_close_results_are_told_apart_with_several_seeds_and_with_one():
    several = results_of(*((w, s, 99, 4.49 + w / 100 + s / 500) for w in (3, 5) for s in (0, 1)))
    text = tables.markdown(job_of(REPORT | {"x": "toy.width"}, several))
    assert "| `3` | 3 | 4.5210 ± 0.0014 | 2 | 4.5200 to 4.5220 | 0 | 0 |" in text
    text = tables.markdown(job_of(REPORT, results_of((3, 0, 99, 4.49), (5, 0, 99, 4.54))))
    assert "| `3` | 0 | 4.490 | 1 | - | 0 | 0 |" in text
    assert "| `5` | 0 | **4.540** | 1 | - | 0 | 0 |" in text
    text = tables.markdown(job_of(REPORT | {"digits": 2}, results_of((3, 0, 99, 4), (5, 0, 99, 9))))
    assert "| `5` | 0 | **9.00** | 1 | - | 0 | 0 |" in text


def test_without_a_bound_every_run_has_learned():
    inside = {"name": "inside", "split": "validation", "value": "loss"}
    job = job_of(REPORT | {"in_distribution": inside}, results_of((3, 0, 0, 4), (3, 1, 99, 6)))
    assert [row.learned for row in job.rows] == [True, True]
    assert "Means are over all runs" in tables.markdown(job)


def test_the_better_one_is_the_best_and_a_task_is_learned_from_above_or_below():
    results = results_of((3, 0, 0.2, 2), (5, 0, 0.4, 1), (7, 0, 0.6, 0))
    inside = {"name": "inside", "split": "validation", "value": "loss"}
    lower = REPORT | {"better": "lower", "in_distribution": inside | {"most": 0.5}}
    best = {key: mean.best for key, mean in job_of(lower, results).means.items()}
    assert best == {(3, 0): False, (5, 0): True, (7, 0): False}
    assert "inside of at most 0.5" in tables.markdown(job_of(lower, results))
    assert "lower is better" in tables.markdown(job_of(lower, results))
    higher = REPORT | {"in_distribution": inside | {"least": 0.1}}
    best = {key: mean.best for key, mean in job_of(higher, results).means.items()}
    assert best == {(3, 0): True, (5, 0): False, (7, 0): False}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"better": "hihger"}, "did you mean 'higher'"),
        ({"better": None}, "no 'better'"),
        ({"title": None}, "no 'title'"),
        ({"in_distribution": {"name": "a"}}, "missing 1 required positional argument: 'value'"),
        ({"in_distribution": {"name": "a", "least": 1, "most": 2}}, "both 'least' and 'most'"),
        ({"result": {"name": "a"}}, "missing 1 required positional argument: 'value'"),
    ],
)
def test_a_report_that_lacks_something_is_refused(changed, message):
    asked = {key: value for key, value in (REPORT | changed).items() if value is not None}
    with pytest.raises(UserError, match=message):
        Report.of_section(asked, "sweep.toml")


def record_of(scheme, seed, **by_length):
    return {
        "point": {"encoding": scheme, "seed": seed},
        "state": "finished",
        "tokens_per_second": 100.0 * (1 + seed),
        "records": [
            {"split": "test", "length": int(name[1:]), "bits_per_byte": value, "loss": 1.0}
            for name, value in by_length.items()
        ],
    }


def sweep_of(count):
    """A sweep of flags with so many schemes, the later ones better, and a baseline that is worst."""
    names = ["none", *(f"s{n}" for n in range(count))]
    runs = [
        record_of(name, seed, n8=3 - n / 50, n32=4 - n / 50 + seed / 10)
        for n, name in enumerate(names)
        for seed in (0, 1)
    ]
    return {"scale": "grid", "config": "lm", "set": {"sequence_length": 8}, "runs": runs}


def test_without_a_section_the_records_say_what_is_shown():
    found = Report.suggested(sweep_of(2), "a sweep")
    assert (found.x, found.series, found.better) == ("sequence_length", "encoding", "lower")
    assert (found.inside.where["length"], found.result.where["length"]) == (8, 32)
    job = Job("a sweep", found, sweep_of(2))
    assert job.means["s1", 8].mean == pytest.approx(4.01)
    assert job.means["s1", 8].best
    with pytest.raises(UserError, match="no run has a figure"):
        Report.suggested(sweep_of(0) | {"runs": [record_of("none", 0)]}, "a sweep")


@pytest.mark.parametrize("count", [3, 42])
def test_the_best_few_are_coloured_and_the_others_grey(count):
    job = Job("a sweep", Report.suggested(sweep_of(count), "a sweep"), sweep_of(count))
    drawn_as = pictures.looks([job])
    coloured = [name for name, look in drawn_as.items() if look.highlighted]
    assert coloured == [*[f"s{n}" for n in reversed(range(count))][:6], "none"]
    assert len({(look.color, look.style) for look in drawn_as.values()}) == len(coloured) + (
        count > 6
    )
    (axes,) = pictures.lengths(job, drawn_as)[0].axes
    best = next(line for line in axes.lines if line.get_color() == drawn_as[coloured[0]].color)
    assert best.get_xdata().tolist() == [8, 32]
    np.testing.assert_allclose(best.get_ydata(), [3 - count / 50, 4.05 - count / 50])
    assert axes.lines[-1].get_xdata() == [8, 8]
    assert axes.get_xlabel() == "length (dotted: trained)"
    assert len(axes.collections) == len(coloured)  # a band each


def test_a_page_needs_nothing_else_and_says_what_is_missing():
    results = sweep_of(42)
    results["runs"][0]["point"]["encoding"] = "<b>none</b>"
    job = Job("a sweep", Report.suggested(results, "a & b"), results)
    text = page.page("a & b", [job], "relpos sweep --grid 'x<y'")
    assert "<title>a &amp; b</title>" in text
    assert "&lt;b&gt;none&lt;/b&gt;" in text
    assert "<b>" not in text
    assert "x&lt;y" in text
    assert "the run directories are not here" in text
    assert "37 others" in text
    assert len(text) < 2_000_000
    addresses = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)|@import', text)
    assert all((one or other).startswith("#") for one, other in addresses)
    for color in (pictures.INK, pictures.GREY, pictures.GRID):
        assert color not in text  # they are the theme's
    assert not re.findall(r'<svg[^>]*(?:width|height)="[^"]*pt"', text)
    assert text.count("python -m relpos.train") == 2 * 43


def test_runs_of_several_trained_lengths_are_compared_at_those_that_all_have():
    runs = [
        {
            "point": {"encoding": "rope", "sequence_length": length},
            "state": "finished",
            "records": [
                {"split": "test", "length": times * length, "bits_per_byte": 1.0 + times}
                for times in (1, 2, 4, 8)
            ],
        }
        for length in (128, 256)
    ]
    results = {"scale": "grid", "config": "lm", "set": {}, "runs": runs}
    job = Job("a sweep", Report.suggested(results, "a sweep"), results)
    assert (job.report.inside.where["length"], job.report.result.where["length"]) == (256, 1024)
    assert (job.means["rope", 128].mean, job.means["rope", 256].mean) == (9.0, 5.0)
    runs[1]["records"] = [{"split": "test", "length": 999, "bits_per_byte": 2.0}]
    job = Job("a sweep", Report.suggested(results, "a sweep"), results)  # nothing in common
    assert all(row.learned for row in job.rows)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"digit": 2}, r"\[report\] has an unknown key 'digit': did you mean 'digits'"),
        ({"result": REPORT["result"] | {"multipel": 2}}, "did you mean 'multiple'"),
        ({"in_distribution": "loss"}, r"\[report.in_distribution\] must be a section"),
        ({"more": {"a": {"lenght": 3}}}, r"\[report.more.a\] .* did you mean 'length'"),
    ],
)
def test_a_misspelt_key_of_a_report_is_named(section, message):
    with pytest.raises(UserError, match=message):
        Report.of_section(REPORT | section, "sweep.toml")


def test_speed_and_parameters_are_of_each_x():
    runs = [
        {"point": {"encoding": "shaw", "encodings.shaw.k": k, "seed": seed}, "state": "finished",
         "tokens_per_second": speed, "records": [{"split": "test", "accuracy": 0.5}]}
        for k, seed, speed in ((0, 0, 3000.0), (4, 0, 2000.0), (4, 1, 1000.0))
    ]  # fmt: skip
    results = {"scale": "grid", "config": "algorithmic", "set": {}, "runs": runs}
    report = Report.of_section(
        REPORT | {"x": "encodings.shaw.k", "series": "encoding"}, "sweep.toml"
    )
    job = Job("a sweep", report, results)
    none, four = (job.parameters["shaw", k] for k in (0, 4))
    assert four - none == 2 * 8 * 32  # tables of keys and values, 8 distances more, 32 wide
    rows = re.findall(
        r"<tr><td><code>shaw</code></td><td>([04])</td>(.*?)</tr>", page.page("a", [job], "")
    )
    told = {k: re.findall(r"<td>([^<]*)</td>", cells)[-2:] for k, cells in rows}
    assert told == {"0": ["3,000", f"{none:,}"], "4": ["1,500", f"{four:,}"]}


def test_runs_at_several_x_have_a_panel_each_with_the_trained_length_marked():
    results = sweep_of(2)
    two = [run | {"point": run["point"] | {"batch_size": 4},
                  "records": [r | {"bits_per_byte": 1.0} for r in run["records"]]}
           for run in results["runs"]]  # fmt: skip
    for run in results["runs"]:
        run["point"]["batch_size"] = 2
    results = results | {"runs": results["runs"] + two}
    job = Job("a sweep", Report.suggested(results, "a sweep"), results)
    assert job.report.x == "batch_size"
    drawn_as = pictures.looks([job])
    first, second = (drawn.axes[0] for drawn in pictures.lengths(job, drawn_as))
    assert (first.get_title(), second.get_title()) == tuple(
        f"bits_per_byte by length, batch_size {x}" for x in (2, 4)
    )
    for axes, told in ((first, [2.96, 4.01]), (second, [1.0, 1.0])):
        line = next(x for x in axes.lines if x.get_color() == drawn_as["s1"].color)
        np.testing.assert_allclose(line.get_ydata(), told)
        assert axes.lines[-1].get_xdata() == [8, 8]  # trained


def test_lengths_are_drawn_without_the_sweeps_config():
    results = sweep_of(2) | {"config": "nowhere/config.py", "set": {}}
    for run in results["runs"]:
        run["point"]["batch_size"] = 2
    asked = REPORT | {"x": "batch_size", "series": "encoding", "better": "lower"}
    asked["result"] = {"name": "result", "split": "test", "value": "bits_per_byte", "length": 32}
    job = job_of(asked, results)
    (drawn,) = pictures.lengths(job, pictures.looks([job]))
    assert drawn.axes[0].get_xlabel() == "length"  # no trained length is known
