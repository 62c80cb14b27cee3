import itertools
import json

import pytest

from relpos import data
from relpos.data import questions


def babi(folder, name, stories):
    """Two questions to each story."""
    text = "".join(
        f"1 {who} went to the {where}.\n2 Where is {who}?\t{where}\t1\n3 Ed ran.\n4 Who ran?\tEd\t3\n"
        for who, where in stories
    )
    (folder / name).write_text(text)
    return str(folder / name)


def numbered(count, tag=""):
    return [(f"Ada{tag}{i}", f"room{i}") for i in range(count)]


def documents(corpus):
    return {split: {q.document for q in found} for split, found in corpus.splits.items()}


def test_given_files_are_the_splits(tmp_path):
    corpus = questions.load(
        "babi",
        train=babi(tmp_path, "train.txt", numbered(5)),
        validation=babi(tmp_path, "valid.txt", numbered(2, "v")),
        test=babi(tmp_path, "test.txt", numbered(3, "t")),
    )
    assert {split: len(found) for split, found in corpus.splits.items()} == {
        "train": 10,
        "validation": 4,
        "test": 6,
    }
    assert corpus.name == "train.txt"
    assert (corpus.problems, corpus.notes) == ((), ())
    assert json.loads(json.dumps(corpus.describe()))["splits"]["test"]["questions"] == 6


def test_whole_stories_are_held_out(tmp_path):
    corpus = questions.load("babi", train=babi(tmp_path, "qa.txt", numbered(100)))
    found = documents(corpus)
    assert sum(map(len, corpus.splits.values())) == 200
    for one, other in itertools.combinations(found, 2):
        assert not found[one] & found[other]
    assert len(corpus.splits["test"]) == len(corpus.splits["validation"]) == 10
    assert corpus.notes == ("validation and test held out from train",)


def test_stories_told_twice_are_held_out_together(tmp_path):
    corpus = questions.load("babi", train=babi(tmp_path, "qa.txt", numbered(50) * 3))
    contexts = {split: {q.context for q in found} for split, found in corpus.splits.items()}
    assert all(contexts.values())
    for one, other in itertools.combinations(contexts, 2):
        assert not contexts[one] & contexts[other]


def test_several_files_and_their_problems(tmp_path):
    babi(tmp_path, "qa1_train.txt", numbered(30))
    babi(tmp_path, "qa2_train.txt", [*numbered(30, "b"), ("Bob", "yes"), ("Bea", "no")])
    corpus = questions.load("babi", train=str(tmp_path / "qa*_train.txt"))
    assert sum(map(len, corpus.splits.values())) == 60 + 64 - 2
    (problem,) = corpus.problems
    assert problem.endswith(": 2, first qa2_train.txt line 122")
    assert len({q.id for found in corpus.splits.values() for q in found}) == 122


def test_files_that_share_their_ids_are_told_apart(tmp_path):
    for language in ("en", "hn"):
        (tmp_path / language).mkdir()
        babi(tmp_path / language, "qa1.txt", numbered(40, language))
    corpus = questions.load("babi", train=str(tmp_path / "*" / "qa1.txt"))
    ids = [q.id for found in corpus.splits.values() for q in found]
    assert len(ids) == len(set(ids)) == 160


def test_contexts_of_train_in_test_are_counted(tmp_path):
    corpus = questions.load(
        "babi",
        train=babi(tmp_path, "train.txt", numbered(5)),
        validation=babi(tmp_path, "valid.txt", numbered(2, "v")),
        test=babi(tmp_path, "test.txt", numbered(3)),
    )
    assert corpus.notes == ("test: 6 of 6 questions have a context that is also in train",)


def squad_file(folder, titles, paragraphs):
    articles = [
        {
            "title": title,
            "paragraphs": [
                {
                    "context": f"{title} {i}",
                    "qas": [
                        {
                            "id": f"{title}{i}",
                            "question": "?",
                            "answers": [{"text": title, "answer_start": 0}],
                        }
                    ],
                }
                for i in range(paragraphs)
            ],
        }
        for title in titles
    ]
    (folder / "own.json").write_text(json.dumps({"data": articles}))
    return str(folder / "own.json")


def test_whole_articles_are_held_out_and_paragraphs_where_there_is_one(tmp_path):
    many = questions.load("squad", train=squad_file(tmp_path, [f"T{i}" for i in range(60)], 2))
    titles = documents(many)
    assert all(titles.values())
    assert not titles["train"] & titles["test"]
    one = questions.load("squad", train=squad_file(tmp_path, ["T"], 60))
    assert {split: len(found) for split, found in one.splits.items()} == {
        "train": 54,
        "validation": 3,
        "test": 3,
    }


def test_stories_are_embedded(monkeypatch):
    sizes = {"train": 40, "validation": 10, "test": 10, "longer": 20}
    monkeypatch.setattr("relpos.data.questions.sources.stories.QUESTIONS", sizes)
    corpus = questions.load("stories", distance=(2, 4), facts=2, seed=1)
    assert {split: len(found) for split, found in corpus.splits.items()} == sizes
    assert {q.group for q in corpus.splits["train"]} == {2, 3, 4}
    assert {q.group for q in corpus.splits["longer"]} == {5, 6, 7, 8}
    assert questions.load("stories", distance=(2, 4), facts=2, seed=1).sha256 == corpus.sha256
    assert questions.load("stories", distance=(2, 4), facts=2, seed=2).sha256 != corpus.sha256
    assert corpus.notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": "qa.text"}, "There is no file .* Did you mean 'qa.txt'"),
        ({"test": "qa.txt"}, "set train to the training files"),
        ({"train": "qa.txt"}, "2 questions on 2 paragraphs are too few"),
        ({"train": "no.txt"}, "no question of train can be used: answer is not a span.*: 1, first"),
        ({"trian": "qa.txt"}, "did you mean 'train'"),
    ],
)
def test_what_cannot_be_used_is_explained(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    babi(tmp_path, "qa.txt", numbered(1))
    (tmp_path / "no.txt").write_text("1 Ada is here.\n2 Is she?\tyes\t1\n")
    with pytest.raises(data.DataError, match=message):
        questions.load("babi", **arguments)
