import numpy as np
import pytest

from relpos.errors import UserError
from tests.scripts.load import script

report = script("reports")

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


def test_means_leave_out_what_has_not_learned_and_say_so():
    asked = REPORT | {"better": "higher", "x": "toy.width"}
    results = results_of(
        (3, 0, 99, 40), (3, 1, 50, 0), (3, 2, 95, 60), (5, 0, None, None), (5, 1, 96, 7)
    )
    summary = report.means(asked, report.rows(asked, results))
    assert summary[3, 3] == {
        "mean": 50, "deviation": 200**0.5, "low": 40, "high": 60, "runs": 2, "not learned": 1,
        "not finished": 0, "best": False,
    }  # fmt: skip
    assert summary[5, 5] == {
        "mean": 7, "deviation": None, "low": 7, "high": 7, "runs": 1, "not learned": 0,
        "not finished": 1, "best": False,
    }  # fmt: skip
    page = report.markdown(asked, results)
    assert "| `3` | 3 | 50 ± 14 | 2 | 40 to 60 | 1 | 0 |" in page
    assert "| `5` | 5 | 7 | 1 | - | 0 | 1 |" in page
    assert "| 3 | 1 | finished | - | 50 | 0 |" in page
    assert "| 5 | 0 | failed | - | - | - |" in page


def test_a_figure_is_of_the_record_that_is_asked_for():
    records = [{"split": "test", "length": n, "accuracy": n / 100} for n in (10, 20, 30)]
    records.append({"split": "longer", "length": 20, "accuracy": 0.9})
    asked = {"name": "a", "split": "test", "length": 20, "value": "accuracy", "times": 100}
    assert report.figure(records, asked) == 20
    assert report.figure(records, asked | {"length": 40}) is None


@pytest.mark.parametrize("one", [True, False])
def test_a_picture_of_one_x_or_several(one):
    results = results_of(*((w, s, 99, w + s) for w in (3, 5) for s in ((0,) if one else (0, 1, 2))))
    (axes,) = report.draw(REPORT, results).axes
    assert bool(axes.patches) == one
    assert "higher is better" in axes.get_ylabel()


def test_curves_are_of_one_seed_and_their_mean_has_a_band():
    asked = REPORT | {"x": "toy.width", "series": "kind"}
    results = results_of(*((w, s, 99, w + s) for w in (3, 5, 7) for s in (0, 1)), (7, 2, 50, 1))
    for run in results["runs"]:
        run["point"] = {"kind": "a"} | run["point"]
    (axes,) = report.draw(asked, results).axes
    curves = [line.get_ydata().tolist() for line in axes.lines if len(line.get_ydata()) == 3]
    assert sorted(curves) == [[3, 5, 7], [3.5, 5.5, 7.5], [4, 6, 8]]
    assert [line.get_ydata() for line in axes.lines if line.get_marker() == "x"] == [[1]]
    (band,) = axes.collections
    (corners,) = (path.vertices for path in band.get_paths())
    np.testing.assert_allclose(corners[:, 1].min(), 3.5 - 0.5**0.5)


@pytest.mark.parametrize(
    ("deviation", "digits"), [(14.1, 0), (9.96, 0), (8.3, 1), (0.25, 2), (0.0996, 2), (0.021, 3)]
)
def test_two_digits_of_a_deviation_are_shown(deviation, digits):
    assert report.decimals(deviation) == digits


def test_close_results_are_told_apart_with_several_seeds_and_with_one():
    several = results_of(*((w, s, 99, 4.49 + w / 100 + s / 500) for w in (3, 5) for s in (0, 1)))
    page = report.markdown(REPORT | {"x": "toy.width"}, several)
    assert "| `3` | 3 | 4.5210 ± 0.0014 | 2 | 4.5200 to 4.5220 | 0 | 0 |" in page
    page = report.markdown(REPORT, results_of((3, 0, 99, 4.49), (5, 0, 99, 4.54)))
    assert "| `3` | 0 | 4.490 | 1 | - | 0 | 0 |" in page
    assert "| `5` | 0 | **4.540** | 1 | - | 0 | 0 |" in page


def test_the_better_one_is_the_best_and_a_task_is_learned_from_above_or_below():
    results = results_of((3, 0, 0.2, 2), (5, 0, 0.4, 1), (7, 0, 0.6, 0))
    inside = {"name": "inside", "split": "validation", "value": "loss"}
    lower = REPORT | {"better": "lower", "in_distribution": inside | {"most": 0.5}}
    best = {key: m["best"] for key, m in report.means(lower, report.rows(lower, results)).items()}
    assert best == {(3, 0): False, (5, 0): True, (7, 0): False}
    assert "inside of at most 0.5" in report.markdown(lower, results)
    assert "lower is better" in report.markdown(lower, results)
    higher = REPORT | {"in_distribution": inside | {"least": 0.1}}
    best = {key: m["best"] for key, m in report.means(higher, report.rows(higher, results)).items()}
    assert best == {(3, 0): True, (5, 0): False, (7, 0): False}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"better": "hihger"}, "did you mean 'higher'"),
        ({"better": None}, "no 'better'"),
        ({"title": None}, "no 'title'"),
        ({"in_distribution": {"name": "a"}}, "needs 'least'"),
        ({"in_distribution": {"name": "a", "least": 1, "most": 2}}, "and not both"),
    ],
)
def test_a_report_that_lacks_something_is_refused(tmp_path, changed, message):
    asked = {key: value for key, value in (REPORT | changed).items() if value is not None}
    report.check(REPORT, tmp_path)
    with pytest.raises(UserError, match=message):
        report.check(asked, tmp_path)
