import pytest

from relpos import data
from relpos.data.questions.sources.babi import read_babi

STORY = """\
1 Ada moved to the garden.
2 Ben went to the office.
3 Where is Ada? \tgarden\t1
4 Ada took the milk there.
5 Ben moved to the garden.
6 Ada went to the office.
7 Where is the milk? \toffice\t4 6
8 Where was the milk before the office?\tgarden\t6 4 1
1 Ben went to the kitchen.
2 Where is Ben?\tkitchen\t1
"""


def read(tmp_path, text, name="qa1_train.txt"):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_babi(str(tmp_path / name))


def test_questions_have_the_story_so_far(tmp_path):
    reading = read(tmp_path, STORY)
    assert reading.problems == ()
    first, milk, before, second = reading.questions
    assert first.context == "Ada moved to the garden.\nBen went to the office."
    assert (first.question, first.answers) == ("Where is Ada?", ("garden",))
    assert milk.context.split("\n") == [
        "Ada moved to the garden.",
        "Ben went to the office.",
        "Ada took the milk there.",
        "Ben moved to the garden.",
        "Ada went to the office.",
    ]
    assert before.context == milk.context
    assert second.context == "Ben went to the kitchen."
    assert first.document == milk.document != second.document
    assert len({q.id for q in reading.questions}) == 4


def test_answers_stand_in_the_supporting_facts(tmp_path):
    for question in read(tmp_path, STORY).questions:
        (start,), (answer,) = question.starts, question.answers
        assert question.context[start : start + len(answer)] == answer
    _, milk, before, _ = read(tmp_path, STORY).questions
    assert milk.context[: milk.starts[0]].count("\n") == 4  # not in the second sentence
    assert before.context[: before.starts[0]].count("\n") == 0  # not in the fourth


def test_the_distance_is_that_of_the_farthest_fact(tmp_path):
    assert [q.group for q in read(tmp_path, STORY).questions] == [2, 3, 5, 1]


SPAN = "answer is not a span of the story, question left out"
LAST = "answer is in no supporting fact, last occurrence taken"


@pytest.mark.parametrize(
    ("fact", "question", "message", "start"),
    [
        ("The office is north of the garden.", "How do you go?\ts,s\t1", SPAN, None),
        ("Ada got the milk and the ball.", "What has Ada?\tball,milk\t1", SPAN, None),
        ("Ada took the milk.", "How many has Ada?\tone\t1", SPAN, None),
        ("John is no longer in the office.", "Is John in the office?\tno\t1", SPAN, None),
        ("Yes is a band.", "Is it?\tyes\t1", SPAN, None),
        ("Mice are afraid of wolves.", "Of what?\twolf\t1", SPAN, None),
        ("Ada is here. Ada is there.", "Who?\tAda\t", LAST, 13),
        (
            "Ada is here.",
            "Who?\tAda\t7",
            "supporting fact that is not an earlier sentence, ignored",
            0,
        ),
        (
            "Ada is here.",
            "Who?\tAda\tx",
            "line with other fields than a question's, left out",
            None,
        ),
        ("Ada.", "Who?\tAda\t1\t1", "line with other fields than a question's, left out", None),
        ("Ada.", " \tAda\t1", "empty question, question left out", None),
        ("Ada.", "Who?\t\t1", "empty answer, left out", None),
        ("Ada.", "Who?\t", "empty answer, left out", None),
    ],
)
def test_what_is_no_span_or_no_question_is_counted(tmp_path, fact, question, message, start):
    reading = read(tmp_path, f"1 {fact}\n2 {question}\n" * 2 + STORY)
    assert len(reading.questions) == 4 + 2 * (start is not None)
    if start is not None:
        assert reading.questions[0].starts == (start,)
    first = reading.problems[0]
    assert (first.message, first.count) == (message, 2)
    assert first.first == "qa1_train.txt line 2"


def test_a_fact_that_names_the_answer_goes_before_a_later_mention(tmp_path):
    reading = read(tmp_path, "1 Ada is here.\n2 Ada is there.\n3 Who?\tAda\t1\n")
    assert reading.questions[0].starts == (0,)


def test_a_question_before_any_fact_and_lines_without_numbers(tmp_path):
    reading = read(tmp_path, "1 Who?\tAda\t\n\nno number\n2 Ada is here.\r\n3 Who?\tAda\t2\r\n")
    assert [q.context for q in reading.questions] == ["Ada is here."]
    assert [(p.message, p.first) for p in reading.problems] == [
        ("empty context, question left out", "qa1_train.txt line 1"),
        ("line without a number, left out", "qa1_train.txt line 3"),
    ]


def test_numbers_of_thousands_of_digits(tmp_path):
    many = "1" * 5000
    text = f"1 Ada is here.\n{many} Ben is here.\n2 Who?\tAda\t{many}\n3 Who?\tAda\t1\n"
    reading = read(tmp_path, text)
    assert [q.starts for q in reading.questions] == [(0,)]
    assert [(p.message, p.first) for p in reading.problems] == [
        ("line without a number, left out", "qa1_train.txt line 2"),
        ("line with other fields than a question's, left out", "qa1_train.txt line 3"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Ada is here.\n", "is not bAbI: its first line has no number"),
        ("", "is not bAbI"),
        (b"1 Ada is here.\n2 caf\xe9\n", "line 2: byte 0xe9 is not UTF-8"),
    ],
)
def test_what_is_not_babi_is_told(tmp_path, text, message):
    with pytest.raises(data.DataError, match=message):
        read(tmp_path, text)
