import dataclasses
import io
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos.data.questions.sources import stories
from relpos.errors import UserError
from relpos.runs import load_run
from relpos.sections import flatten, to_plain
from relpos.tasks import question_answering
from relpos.training import run_config
from relpos.training.evaluation import evaluate, means
from relpos.training.loop import train
from relpos.training.task import create_task

SMALL = {
    "steps": 2,
    "batch_size": 3,
    "sequence_length": 31,
    "overlap": 7,
    "longest_answer": 5,
    "model.num_layers": 2,
    "model.features": 16,
    "model.num_heads": 2,
    "eval_multiples": "1,2",
}
PLACES = ("attic", "old cellar", "garden", "hallway")


def squad(folder, name="squad.json", *, impossible=False, count=40):
    """Articles of one paragraph with a question each; every third one has no answer if so asked."""
    articles = []
    for i in range(count):
        place = PLACES[i % len(PLACES)]
        context = f"Number {i}. " + "Ben slept. " * (i % 13) + f"Ada went to the {place}, Eve not."
        context += f" Ben was in the {place}." * (i % 2)  # the answer once more
        qa = {"id": f"q{i}", "question": "Where is Ada?", "answers": []}
        if impossible and i % 3 == 0:
            qa |= {"question": "Where is Zoë?", "is_impossible": True}
        else:
            qa["answers"] = [{"text": place, "answer_start": context.index(place)}]
        articles.append({"title": f"t{i}", "paragraphs": [{"context": context, "qas": [qa]}]})
    return write(folder / name, articles)


def write(path, articles):
    path.write_text(json.dumps({"version": "v2.0", "data": articles}))
    return str(path)


TRAIN = "data.sources.squad.train"


def small(tmp_path, **overrides):
    if "data.source" not in overrides:
        overrides["data.source"] = "squad"
        if TRAIN not in overrides:
            overrides[TRAIN] = squad(tmp_path)
    chosen = SMALL | overrides
    return run_config.load("configs/qa.py", [(key, str(value)) for key, value in chosen.items()])


def line(**record):
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("tokenizer", "impossible"), [("words", False), ("bytes", True), ("sentencepiece", False)]
)
def test_a_run_trains_and_is_evaluated_and_answers(tmp_path, tokenizer, impossible, capsys):
    overrides = {"data.tokenizer": tokenizer, "encoding": "t5"}
    if tokenizer == "bytes":
        overrides |= {"sequence_length": 61, "longest_answer": 12, "overlap": 12}
    elif tokenizer == "sentencepiece":
        overrides |= {"data.vocab_size": 300, "sequence_length": 61}
        overrides |= {"longest_answer": 12, "overlap": 12}
    config = small(tmp_path, **overrides, **{TRAIN: squad(tmp_path, impossible=impossible)})
    workdir = tmp_path / "run with a space"
    assert train(config, workdir, Console(width=120)) == 0
    assert "questions" in capsys.readouterr().out
    records = [json.loads(text) for text in (workdir / "metrics.jsonl").read_text().splitlines()]
    tested = [r for r in records if r["split"] == "test" and "distance" not in r]
    length = config.sequence_length
    assert [record["length"] for record in tested] == [length, 2 * length]
    for record in tested:
        assert 0 <= record["exact_match"] <= record["f1"] <= 100
        assert record["loss"] > 0
        assert record["unread"] == 0
        assert ("impossible_accuracy" in record) <= impossible
        assert ("threshold" in record) == impossible

    (tmp_path / "squad.json").unlink()  # a trained model needs it no more
    loaded = load_run(workdir)
    task, model = loaded.task, loaded.model
    context = "Ада и Zoë. " * 30 + "Ada went to the attic."
    asked = [line(context=context, question="Where is Ada?"), b"{}"] * 2
    results = list(task.predict_lines(model, asked))
    assert results[0] == results[2]
    found = json.loads(results[0])
    if found["start"] is None:
        assert impossible
        assert found["answer"] == ""
    else:
        start = found["start"]
        assert context[start : start + len(found["answer"])] == found["answer"]
    assert 0 < found["score"] <= 1
    assert isinstance(results[1], UserError)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"threshold": NaN}', '{"threshold": "0"}'])
def test_a_threshold_that_is_none_is_named(tmp_path, content):
    (tmp_path / "no_answer.json").write_text(content)
    with pytest.raises(UserError, match=r"no_answer\.json'.* restore it"):
        question_answering._kept_threshold(tmp_path)
    # Of a run whose model knows no answer yet.
    (tmp_path / "no_answer.json").write_text('{"threshold": -Infinity}')
    assert question_answering._kept_threshold(tmp_path) == -np.inf


def test_the_same_scores_again(tmp_path):
    config = small(tmp_path)
    assert train(config, tmp_path / "run", Console(quiet=True)) == 0
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (kept,) = [
        r
        for r in map(json.loads, records)
        if r["split"] == "test" and r["length"] == 31 and "distance" not in r
    ]
    assert (kept.pop("step"), kept.pop("split")) == (2, "test")
    loaded = load_run(tmp_path / "run")
    task, model = loaded.task, loaded.model
    again, *_ = evaluate(task, model, "test", lengths=[31])
    assert again.pop("split") == "test"
    assert again == pytest.approx(kept, rel=1e-5)
    with pytest.raises(UserError, match="did you mean 'test'"):
        evaluate(task, model, "tets")


def test_questions_that_have_changed_are_not_scored_as_the_runs_own(tmp_path):
    assert train(small(tmp_path), tmp_path / "run", Console(quiet=True)) == 0
    squad(tmp_path, count=50)
    loaded = load_run(tmp_path / "run")
    task, model = loaded.task, loaded.model
    with pytest.raises(UserError, match="another corpus"):
        evaluate(task, model, "test")


def test_a_lost_tokenizer_is_not_learned_anew(tmp_path):
    assert train(small(tmp_path), tmp_path / "run", Console(quiet=True)) == 0
    (tmp_path / "run" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json' is missing"):
        _ = load_run(tmp_path / "run").model


def test_stories_are_told_apart_by_distance(tmp_path, monkeypatch):
    counts = {"train": 20, "validation": 5, "test": 40, "longer": 40}
    monkeypatch.setattr(stories, "QUESTIONS", counts)
    chosen = {"data.source": "stories", "data.sources.stories.distance": "2,3"}
    config = small(tmp_path, sequence_length=64, eval_multiples=3, **chosen)
    task = create_task(config, tmp_path)
    model = task.init_model(nnx.Rngs(0))
    assert task.test_splits() == ["test", "longer"]
    with (tmp_path / "out").open("w") as file:
        console = Console(file=file, width=100)
        found = {
            split: evaluate(task, model, split, console=console) for split in task.test_splits()
        }
    distances = {split: [r.get("distance") for r in records] for split, records in found.items()}
    assert distances == {
        "test": [None, "2", "3"],
        "longer": [None, *(f"{distance}, beyond" for distance in (4, 5, 6))],
    }
    printed = (tmp_path / "out").read_text()
    assert "4, beyond" in printed
    assert "3, beyond" not in printed


def test_faults_of_the_data_are_named_and_counted_before_training(tmp_path, capsys):
    articles = json.loads(Path(squad(tmp_path)).read_text())["data"]
    qas = [article["paragraphs"][0]["qas"][0] for article in articles]
    del qas[0]["question"]
    qas[1]["answers"][0]["text"] = "nowhere at all"
    qas[2]["question"] = "Where " * 60
    qas[3]["answers"] = [{"text": "slept. Ben slept. Ben slept", "answer_start": 0}]
    articles[4]["paragraphs"][0]["context"] = ""
    train_file = write(tmp_path / "faulty.json", articles)
    other = squad(tmp_path)
    config = small(
        tmp_path,
        **{
            TRAIN: train_file,
            "data.sources.squad.validation": other,
            "data.sources.squad.test": train_file,
        },
    )
    assert train(config, tmp_path / "run", Console(width=200)) == 0
    printed = capsys.readouterr().out
    started = printed[: printed.index("compiling")]
    for fault in (
        "no text 'question', question left out: 2, first faulty.json data[0]",
        "answer is not in its context, left out: 2, first faulty.json data[1]",
        "empty context, question left out: 2",
        "question of more than 15 tokens, not trained on: 1, first q2",
        "answer of more than 5 tokens, not trained on: 1, first q3",
    ):
        assert fault in started
        assert fault in printed[len(started) :]
    facts = json.loads((tmp_path / "run" / "config.json").read_text())["corpus"]
    assert set(facts) == {"name", "version", "sha256", "hashed", "splits"}
    records = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    tested = [r for r in map(json.loads, records) if r["split"] == "test"]
    assert [(record["questions"], record["unread"]) for record in tested] == [(37, 1), (37, 1)]


@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (b"", "empty line"),
        (b" \t", "empty line"),
        (b"Where is Ada?", "not JSON: column 1"),
        (b'{"context": "a"', "not JSON: column"),
        (b"\xff", "not UTF-8: .* at byte 0"),
        (b"[" * 100_000, "cannot be read|no JSON"),
        (b"9" * 10_000, "cannot be read"),
        (b'{"a":' + b"[" * 99 + b"]" * 99 + b"}", "nested more than 50 deep"),
        (b"[1]", "not a JSON object"),
        (line(contxt="a", question="b"), "no field 'context'"),
        (line(context="a"), "no field 'question'"),
        (line(context=3, question="b"), "field 'context' is not text but 3"),
        (line(context="a", question=None), "field 'question' is not text but null"),
        (line(context=" \n", question="b"), "field 'context' is empty"),
        (line(context="a", question=""), "field 'question' is empty"),
        (line(context="a\ud800", question="b"), "unpaired surrogate"),
        (line(context="a", question="b " * 50), "question of 50 tokens, more than the 46"),
    ],
)
def test_a_bad_line_is_named_and_does_not_stop_the_others(tmp_path, faulty, message):
    task = create_task(small(tmp_path), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    good = line(context="Ada went.", question="Who went?")
    first, second, third = task.predict_lines(model, [good, faulty, good])
    assert first == third
    with pytest.raises(UserError, match=message):
        raise second


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"encoding": "ropee"}, "rope"),
        ({"model.num_heads": 3}, "divide"),
        ({"data.source": "storys"}, "stories"),
        ({"data.tokenizer": "word"}, "words"),
        ({"data.vocab_size": 100}, "vocabulary of 100 is too small"),
        ({"data.source": "stories", "data.sources.stories.distance": "3"}, "distance"),
        ({"data.source": "stories", "data.sources.stories.distance": "3,2"}, "range"),
        ({"data.source": "stories", "data.sources.stories.facts": 3}, "1 or 2 facts"),
        ({"longest_answer": 9}, "longest_answer=9"),
        ({"longest_answer": 0}, "longest_answer"),
        ({"overlap": 20}, "no room for a question"),
        ({"eval_multiples": "0"}, "eval_multiples"),
        ({"encoding": "learned", "encodings.learned.max_length": 8}, "8 positions of learned"),
        ({"encoding": "learned", "encodings.learned.max_length": 40}, "40 positions of learned"),
    ],
)
def test_what_cannot_work_is_a_user_error_that_says_why(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train(small(tmp_path, **override), tmp_path / "run", Console())
    assert not (tmp_path / "run" / "config.json").exists()


NUMBERS = {
    key: value
    for key, value in flatten(to_plain(run_config.load("configs/qa.py"))).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
    and not key.startswith("encodings.")  # asked of the schemes themselves
    and not key.startswith("data.sources.")
    and key != "data.vocab_size"  # said above
}  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_may_be_negative(tmp_path, key):
    with pytest.raises(UserError, match=key.rsplit(".", maxsplit=1)[-1]):
        train(small(tmp_path, **{key: -1}), tmp_path / "run", Console())
    assert not (tmp_path / "run" / "config.json").exists()


def blind(task):
    """A model for which all tokens are alike."""
    model = task.init_model(nnx.Rngs(0))
    model.ends.kernel[...] = jnp.zeros_like(model.ends.kernel[...])
    return model


@pytest.mark.parametrize("impossible", [False, True])
def test_the_loss_of_a_model_that_knows_nothing(tmp_path, impossible):
    train_file = squad(tmp_path, impossible=impossible)
    task = create_task(small(tmp_path, **{TRAIN: train_file}), tmp_path)
    model = blind(task)
    batch = next(task.train_batches())
    candidates = batch["candidates"].sum(axis=1)
    assert candidates.min() >= 3
    metrics = task.metrics(model, jax.device_put(batch), None)
    total, count = map(float, metrics["loss"])
    assert count == 2 * len(candidates)
    assert total == pytest.approx(2 * np.log(candidates).sum(), rel=1e-5)


def test_a_model_that_points_at_the_answers_is_always_right(tmp_path, monkeypatch):
    """The other way round: targets of windows, back through spans and characters to the texts."""
    for impossible in (False, True):
        train_file = squad(tmp_path, impossible=impossible, count=70)
        chosen = {TRAIN: train_file, "sequence_length": 26, "overlap": 7}
        task = create_task(small(tmp_path, **chosen), tmp_path)

        def oracle(model, batch, key):
            target = jax.nn.one_hot(jnp.maximum(batch["target"], 0), batch["inputs"].shape[1])
            known = (batch["target"] >= 0)[..., None]
            # Windows without the answer are less sure of having none than others of the answer.
            sure = jnp.where((batch["target"] > 0)[..., None], 9.0, 3.0)
            return jnp.where(batch["candidates"][:, None], known * sure * target, -1e9)

        monkeypatch.setattr("relpos.tasks.question_answering._logits", oracle)
        for question in task.corpus.splits["train"][::5]:  # where it stands, not only what it says
            case = task._case(blind(task), [question], 26, brief=True)
            answers = task._answers(case.items[1], means(task, blind(task), case)[1])
            if not question.impossible:
                assert answers[question.id].start in question.starts
        for split in ("train", "test"):
            record, *_ = evaluate(task, blind(task), split, lengths=[26])
            assert (record["exact_match"], record["f1"]) == (100.0, 100.0)


@pytest.mark.parametrize("impossible", [False, True])
def test_questions_that_are_too_long_are_wrong_and_told(tmp_path, impossible):
    task = create_task(small(tmp_path, **{TRAIN: squad(tmp_path, impossible=impossible)}), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    question = dataclasses.replace(task.corpus.splits["test"][0], question="Where is " * 30)
    for split in ("validation", "test"):
        task.corpus.splits[split] = [question]
    console = Console(record=True, width=90, file=io.StringIO())
    (record,) = evaluate(task, model, "test", lengths=[31], console=console)
    assert (record["unread"], record["exact_match"]) == (1, 0.0)
    assert "unread" in console.export_text()
    assert evaluate(task, model, "validation", brief=True)[0]["unread"] == 1
