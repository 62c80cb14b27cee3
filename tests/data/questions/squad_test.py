import gzip
import json
import re

import numpy as np
import pytest
import tensorflow_datasets as tfds

from relpos import data
from relpos.data import questions
from relpos.data.questions.sources.squad import read_squad
from tests.data.tiny_sets import prepare

CONTEXT = "Ada wrote the first program. 🚀 Ada was born in London, über London she wrote."


def answer(text, start):
    return {"text": text, "answer_start": start}


def qa(id="1", question="Who?", answers=None, **more):
    answers = [answer("Ada", 0)] if answers is None else answers
    return {"id": id, "question": question, "answers": answers, **more}


def squad(*qas, context=CONTEXT):
    paragraph = {"context": context, "qas": list(qas)}
    return {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [paragraph]}]}


def read(tmp_path, content, name="dev.json"):
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return read_squad(str(tmp_path / name))


def test_articles_paragraphs_and_questions(tmp_path):
    content = squad(qa("1"), qa("2", "Where?", [answer("London", 47), answer("über London", 55)]))
    content["data"].append(
        {"paragraphs": [{"context": "x y", "qas": [qa("3", "?", [answer("y", 2)])]}]}
    )
    for name in ("dev.json", "dev.json.gz"):
        reading = read(tmp_path, content, name)
        assert reading.problems == ()
        one, two, three = reading.questions
        assert (one.id, one.context, one.question) == ("1", CONTEXT, "Who?")
        assert (one.answers, one.starts, one.impossible) == (("Ada",), (0,), False)
        assert two.starts == (47, 55)  # characters: the rocket and the ü are one each
        assert (one.document, three.document) == ("Ada", "x y")


def test_version_2(tmp_path):
    questions = [
        qa("1", is_impossible=False),
        qa("2", answers=[], is_impossible=True, plausible_answers=[answer("London", 47)]),
        {"id": "3", "question": "When?", "is_impossible": True},
    ]
    reading = read(tmp_path, squad(*questions))
    assert [(q.impossible, q.answers) for q in reading.questions] == [
        (False, ("Ada",)),
        (True, ()),
        (True, ()),
    ]
    assert reading.problems == ()


# A question, what the reader says of it, and the starts that are left; None: no question is left.
WRONG = [
    ({"id": "1", "answers": []}, "no text 'question', question left out", None),
    ("not a record", "no text 'question', question left out", None),
    (qa(question=["Who?"]), "no text 'question', question left out", None),
    (qa(question=" \n"), "empty question, question left out", None),
    (qa(question="\ud83d?"), "unpaired surrogate in question, question left out", None),
    ({"id": "1", "question": "Who?"}, "no list 'answers'", None),
    (qa(answers={"text": ["Ada"]}), "no list 'answers'", None),
    (qa(answers=[]), "no answer in the context, question left out", None),
    (qa(answers=[answer("Bob", 0)]), "answer is not in its context, left out", None),
    (qa(answers=[answer("", 0)]), "empty answer, left out", None),
    (qa(answers=[{"answer_start": 0}]), "answer without a text, left out", None),
    (
        qa(answers=[answer("Ada", 0), answer("Bob", 0)]),
        "answer is not in its context, left out",
        (0,),
    ),
    (qa(answers=[answer("Ada", 30)]), "answer_start is not where the answer is, put right", (31,)),
    (qa(answers=[answer("Ada", -1)]), "answer_start is not where the answer is, put right", (0,)),
    (
        qa(answers=[answer("London", 999)]),
        "answer_start is not where the answer is, put right",
        (60,),
    ),
    (qa(answers=[{"text": "London"}]), "answer_start is not where the answer is, put right", (47,)),
    (qa(answers=[answer("Ada", "0")]), "answer_start is not where the answer is, put right", (0,)),
    (
        qa(answers=[answer(" London", 40)]),
        "answer_start is not where the answer is, put right",
        (46,),
    ),
    (
        qa(answers=[answer("London\n", 47)]),
        "answer_start is not where the answer is, put right",
        (47,),
    ),
    (qa(is_impossible=True), "answers to an impossible question, ignored", ()),
    (qa(id=None), "no id, replaced by the question's place", (0,)),
    (qa(id="good"), "id of another question, replaced by the question's place", (0,)),
]


@pytest.mark.parametrize(("wrong", "message", "starts"), WRONG)
def test_what_is_wrong_is_counted_and_the_rest_read(tmp_path, wrong, message, starts):
    reading = read(tmp_path, squad(qa("good"), wrong, qa("also good"), wrong))
    kept = [q for q in reading.questions if "good" not in (q.id, q.id.removeprefix("also "))]
    assert [q.starts for q in kept] == ([] if starts is None else [starts, starts])
    assert len(reading.questions) == 2 + len(kept)
    first = reading.problems[0]
    assert (first.message, first.count) == (message, 2)
    assert first.first == "dev.json data[0].paragraphs[0].qas[1]"
    assert str(first) == f"{message}: 2, first {first.first}"
    for question in reading.questions:
        for text, start in zip(question.answers, question.starts, strict=True):
            assert question.context[start : start + len(text)] == text
    assert len({q.id for q in reading.questions}) == len(reading.questions)


@pytest.mark.parametrize(
    ("article", "message"),
    [
        ({"title": "x"}, "no list 'paragraphs'"),
        (["x"], "no list 'paragraphs'"),
        ({"paragraphs": [{"context": "x"}]}, "no list 'qas'"),
        ({"paragraphs": ["x"]}, "no list 'qas'"),
        ({"paragraphs": [{"qas": [qa()]}]}, "no text 'context', question left out"),
        ({"paragraphs": [{"context": " ", "qas": [qa()]}]}, "empty context, question left out"),
    ],
)
def test_damaged_articles_are_counted(tmp_path, article, message):
    content = squad(qa())
    content["data"].insert(0, article)
    reading = read(tmp_path, content)
    assert len(reading.questions) == 1
    assert [(p.message, p.count) for p in reading.problems] == [(message, 1)]
    assert reading.problems[0].first.startswith("dev.json data[0]")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"data": [\n{"title" "x"}]}', "dev.json is not JSON: line 2, column 10"),
        (b"", "is not JSON: line 1, column 1"),
        (b'{\n"data": [\xff]}', "line 2: byte 0xff is not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 99 + b"]" * 99, "nested more than 50 deep"),
        ([1, 2], "holds a list, not SQuAD's object"),
        ({"rows": [], "features": []}, "'data' should be a list of articles, but is missing"),
        ({"rows": [], "features": []}, "the file has the fields 'rows', 'features'"),
        ({"data": {"a": 1}}, "but is an object"),
    ],
)
def test_what_is_not_squad_is_told(tmp_path, content, message):
    with pytest.raises(data.DataError, match=re.escape(message)):
        read(tmp_path, content)


FEATURES = {
    "id": np.str_,
    "title": tfds.features.Text(),
    "context": tfds.features.Text(),
    "question": tfds.features.Text(),
    "answers": tfds.features.Sequence({"text": tfds.features.Text(), "answer_start": np.int32}),
}


def record(i, impossible=None):
    answers = {"text": ["über", f"{i}"], "answer_start": [0, 99]}
    if impossible:
        answers = {"text": [], "answer_start": []}
    more = {} if impossible is None else {"is_impossible": impossible}
    texts = {"title": f"T{i % 30}", "context": f"über {i}", "question": f"Q{i}?"}
    return {"id": f"{i}", **texts, "answers": answers, **more}


@pytest.mark.parametrize("version", [1, 2])
def test_squad_of_tensorflow_datasets(tmp_path, version):
    features = FEATURES | ({"is_impossible": np.bool_} if version == 2 else {})
    records = [record(i, i % 2 == 1 if version == 2 else None) for i in range(130)]
    splits = {"train": records[:100], "validation": records[100:]}
    prepare(tmp_path, "tiny_squad", tfds.features.FeaturesDict(features), splits)
    corpus = questions.load("tfds", name="tiny_squad", data_dir=str(tmp_path))
    assert sorted(q.id for q in corpus.splits["validation"]) == sorted(map(str, range(100, 130)))
    train, test = ({q.document for q in corpus.splits[split]} for split in ("train", "test"))
    assert train | test == {f"T{i}" for i in range(30)}
    assert not train & test
    for question in (q for found in corpus.splits.values() for q in found):
        odd = version == 2 and int(question.id) % 2 == 1
        assert question.impossible == odd
        assert question.answers == (() if odd else ("über", question.id))
        assert question.starts == (() if odd else (0, 5))
    (problem,) = corpus.problems
    count = 65 if version == 2 else 130
    assert problem.startswith(f"answer_start is not where the answer is, put right: {count}, first")
    assert corpus.notes[0] == "test held out from train"
    described = json.loads(json.dumps(corpus.describe()))
    assert described["version"] == "1.2.0"
    assert described["splits"]["validation"] == {
        "questions": 30,
        "impossible": 15 if version == 2 else 0,
    }


def test_a_set_without_questions(tmp_path):
    features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
    prepare(tmp_path, "tiny_text", features, {"train": [{"text": "x"}]})
    with pytest.raises(data.DataError, match="features context, question, answers; it has text"):
        questions.load("tfds", name="tiny_text", data_dir=str(tmp_path))


def test_a_number_beyond_all_reading_is_named(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text('{"data": [' + "1" * 5000 + "]}")
    with pytest.raises(data.DataError, match=r"dev\.json holds JSON that cannot be read"):
        read_squad(str(path))
