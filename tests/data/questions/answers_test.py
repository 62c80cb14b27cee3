import pytest

from relpos import data
from relpos.data.questions.answers import Answer, scores, threshold
from relpos.data.questions.question import Question
from relpos.metrics.answers import METRICS, normalise


@pytest.mark.parametrize(
    ("text", "compared"),
    [
        ("The  Cat", "cat"),
        ("an apple, a day", "apple day"),
        ("AN A THE", ""),
        ("theatre and Anna", "theatre and anna"),
        ("U.S.A.", "usa"),
        ("the-end", "theend"),  # punctuation goes before articles
        ("a.the", "athe"),
        ("«the» end", "« » end"),  # only ASCII punctuation goes
        ("tab\tand\nline\u00a0end", "tab and line end"),
        ("$3.50", "350"),
    ],
)
def test_what_is_compared(text, compared):
    assert normalise(text) == compared


def measure(*given):
    found = METRICS.measure(*given)
    assert set(found) == set(METRICS.names())
    return {name: found[name] for name in ("exact_match", "f1")}


# Worked out by hand: precision and recall of the words that are left.
@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "overlap"),
    [
        ("Paris", ["paris"], 1, 1),
        ("the Paris.", ["Paris"], 1, 1),
        ("in Paris", ["Paris"], 0, 2 * (1 / 2) * 1 / (1 / 2 + 1)),
        ("in Paris, France", ["Paris France"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("London", ["Paris"], 0, 0),
        ("New York City", ["York", "New York", "the city of New York"], 0, 6 / 7),
        ("b", ["a b c", "B"], 1, 1),
        # Repeated words count as often as both have them: two of three, and two of two.
        ("so so so", ["so so"], 0, 2 * (2 / 3) * 1 / (2 / 3 + 1)),
        ("so", ["so so so so"], 0, 2 * 1 * (1 / 4) / (1 + 1 / 4)),
        ("", ["Paris"], 0, 0),
    ],
)
def test_exact_match_and_f1(prediction, answers, exact, overlap):
    found = measure(prediction, answers)
    assert found == {"exact_match": exact, "f1": pytest.approx(overlap)}


def test_two_texts_without_words():
    assert measure("the", [""]) == {"exact_match": 1, "f1": 1}
    assert measure("the", ["a"], 0.0) == {"exact_match": 1, "f1": 0}


def question(id, *answers):
    context = " ".join(answers) or "nothing"
    starts = tuple(context.index(answer) for answer in answers)
    return Question(id, context, "?", answers, starts, impossible=not answers)


def answered(texts, certainty=None):
    """Answers by question id, with the certainty that there is none."""
    certainty = certainty or dict.fromkeys(texts, 0.0)
    return {id: Answer(text, 0, 0.5, certainty[id], 0.5) for id, text in texts.items()}


def scores_v1(texts, questions):
    return scores(answered(texts), questions, None)


def scores_v2(texts, questions, certainty=None, threshold=1.0):
    return scores(answered(texts, certainty), questions, threshold)


def test_scores_of_version_1():
    questions = [question("1", "red", "red wine"), question("2", "blue"), question("3", "tea")]
    found = scores_v1({"1": "Wine", "2": "the blue"}, questions)  # 2/3, 1, and none
    assert set(found) == set(METRICS.names())
    assert found["exact_match"] == pytest.approx(100 / 3)
    assert found["f1"] == pytest.approx(100 * (2 / 3 + 1) / 3)


def test_version_1_and_2_differ_in_answers_without_words():
    questions = [question("1", "The")]
    found = scores_v1({"1": "a"}, questions)
    assert set(found) == set(METRICS.names())
    assert (found["exact_match"], found["f1"]) == (100, 0)
    assert scores_v2({"1": "a"}, questions)["f1"] == 100


QUESTIONS = [question("1", "red wine"), question("2", "blue"), question("3"), question("4")]
PREDICTIONS = {"1": "red", "2": "", "3": "", "4": "green"}  # 2/3, 0, right, wrong


def test_scores_of_version_2():
    expected = {
        "exact_match": 100 / 4,
        "f1": 100 * (2 / 3 + 1) / 4,
        "answerable_exact_match": 0,
        "answerable_f1": 100 * (2 / 3) / 2,
        "impossible_accuracy": 50,
    }
    found = scores_v2(PREDICTIONS, QUESTIONS)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    answerable = {f"answerable_{name}" for name in METRICS.names()}
    assert set(found) == {*METRICS.names(), *answerable, "impossible_accuracy"}
    assert "impossible_accuracy" not in scores_v2(PREDICTIONS, QUESTIONS[:2])


def test_above_the_threshold_there_is_no_answer():
    certainty = {"1": 0.9, "2": 0.5, "3": 0.5, "4": 0.6}
    found = scores_v2(PREDICTIONS, QUESTIONS, certainty, 0.5)
    assert found["answerable_f1"] == 0  # the first is above
    assert found["impossible_accuracy"] == 100  # the last is above
    assert scores_v2(PREDICTIONS, QUESTIONS, certainty, 0.9) == scores_v2(PREDICTIONS, QUESTIONS)


def test_the_best_threshold():
    predictions = {"1": "red wine", "2": "blue", "3": "green", "4": "grey"}
    certainty = {"1": -3.0, "2": 1.0, "3": 1.0, "4": 5.0}
    found = {
        t: scores_v2(predictions, QUESTIONS, certainty, t)["f1"] for t in (-9.0, -3.0, 1.0, 5.0)
    }
    assert found == {-9.0: 50, -3.0: 75, 1.0: 75, 5.0: 50}
    assert threshold(answered(predictions, certainty), QUESTIONS) == -3.0
    # 2 and 3 are equally certain: answering the second, which is right, answers the third as well.
    tied = {"1": 9.0, "2": 1.0, "3": 1.0, "4": 1.0}
    assert threshold(answered(predictions, tied), QUESTIONS) == float("-inf")
    always = dict.fromkeys(predictions, "wrong")
    assert threshold(answered(always, certainty), QUESTIONS) == float("-inf")


def test_what_cannot_be_scored():
    with pytest.raises(data.DataError, match="2 questions, first 3, have no answer"):
        scores_v1(PREDICTIONS, QUESTIONS)
    with pytest.raises(data.DataError, match="no questions"):
        scores_v2({}, [])


def test_a_missing_prediction_is_wrong():
    assert scores_v2({"3": ""}, QUESTIONS)["exact_match"] == 25
