import dataclasses
import functools
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import evaluate, predict
from relpos.data import algorithmic
from relpos.data.algorithmic.batches import PRESENTATIONS
from relpos.errors import UserError
from relpos.metrics.symbols import METRICS
from relpos.runs import load_run
from relpos.training import run_config
from relpos.training.evaluation import evaluate as scores_of
from relpos.training.loop import train
from relpos.training.task import create_task

NOWHERE = Path("nonesuch")
SMALL = {
    "steps": 2,
    "batch_size": 3,
    "sequence_length": 7,
    "eval_lengths": "5,7,11",
    "eval_examples": 2,
    "test_examples": 5,
    "model.num_layers": 2,
    "model.features": 12,
    "model.num_heads": 2,
}


def small(name="reverse", **overrides):
    chosen = SMALL | {"data.source": name} | overrides
    path = "configs/algorithmic.py"
    return run_config.load(path, [(key, str(value)) for key, value in chosen.items()])


@functools.cache
def untrained(name, presentation="none", **overrides):
    """A task and a model with larger weights than a new one, which says one symbol over and over."""
    task = create_task(small(name, **{"data.presentation": presentation, **overrides}), NOWHERE)
    random = np.random.default_rng(0)
    graphdef, state = nnx.split(task.init_model(nnx.Rngs(0)))
    state = jax.tree.map(lambda x: x + jnp.asarray(random.normal(size=x.shape), x.dtype), state)
    return task, nnx.merge(graphdef, state)


@pytest.fixture(scope="module", params=["reverse", "copy_cmc"])
def trained(request, tmp_path_factory):
    """A run of an encoder, and one of a decoder."""
    workdir = tmp_path_factory.mktemp("runs") / request.param
    config = small(request.param, **{"data.sources.copy_cmc.letters": 3})
    assert train(config, workdir, Console(file=io.StringIO(), width=60)) == 0
    return workdir


def test_a_run_is_scored_by_length(trained, tmp_path, capsys):
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    tested = [record for record in records if record["split"] == "test"]
    assert [record["length"] for record in tested] == [5, 7, 11]
    for record in tested:
        assert set(record) == {"step", "split", "length", "loss", *METRICS.names()}
        assert 0 <= record["exact_match"] <= record["accuracy"] <= 1
    assert [r["length"] for r in records if r["split"] == "validation"] == [5, 7, 11]
    rows = [line.split("│") for line in (trained / "summary.txt").read_text().splitlines()]
    shown = [(row[1].strip(), row[2].strip()) for row in rows if len(row) > 3]
    assert shown == [
        ("5", "0.714x"), ("7", "1x"), ("mean", "trained"), ("11", "1.57x")
    ]  # fmt: skip

    out = tmp_path / "scores.json"
    evaluate.main([f"--workdir={trained}", "--lengths=7,3", f"--json={out}"])
    shorter, same = json.loads(out.read_text())
    assert shorter["length"] == 3
    assert same == {key: pytest.approx(value) for key, value in tested[1].items() if key != "step"}
    assert "beyond" not in capsys.readouterr().out
    evaluate.main([f"--workdir={trained}", "--split=validation"])
    assert "validation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text=README.md"], "--text is for language models"),
        (["--split=train"], "unknown split 'train'"),
        (["--split=validatoin"], "did you mean 'validation'"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused(trained, flags, message):
    with pytest.raises(UserError, match=message):
        evaluate.main([f"--workdir={trained}", *flags])


def test_lines_are_answered_in_order_and_bad_ones_told(trained, capfdbinary, monkeypatch):
    symbols = ["0", "1"] if trained.name == "reverse" else ["t0", "t1"]
    question = " ".join(symbols)
    lines = f"{question}\n\n{question} seven\r\n\t{question}  \n".encode() + b"\xff\n" + b"_\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert predict.main([f"--workdir={trained}"]) == 1
    out, complaints = capfdbinary.readouterr()
    answers = out.split(b"\n")
    assert len(answers) == 7
    assert answers[0] == answers[3]
    assert [answers[i] for i in (1, 2, 4, 5)] == 4 * [b""]
    told = complaints.decode().splitlines()
    assert [line.split(":")[0] for line in told] == ["line 2", "line 3", "line 5", "line 6"]
    assert "no symbol 'seven'" in told[1]
    assert "UTF-8" in told[2]
    if trained.name == "reverse":
        assert len(answers[0].split()) == 2
    assert predict.main([f"--workdir={trained}", question]) == 0
    assert capfdbinary.readouterr().out == answers[0] + b"\n"


def test_an_answer_does_not_depend_on_the_other_lines(trained):
    loaded = load_run(trained)
    task, model = loaded.task, loaded.model
    symbols = [b"0", b"1"] if trained.name == "reverse" else [b"t0", b"t1"]
    lines = [b" ".join(symbols[n >> i & 1] for i in range(1 + n % 7)) for n in range(20)]
    answers = task.predict_lines(model, lines)
    assert all(isinstance(answer, bytes) for answer in answers)
    for n in (0, 6, 19):
        assert task.predict_lines(model, [lines[n]]) == [answers[n]]


def test_a_huge_question_is_refused_before_it_is_answered():
    task, model = untrained("reverse")
    lines = [b"0 1", b"0 " * 500_000, b"0 " * 15_000, b"x" * 10**6]
    good, *huge, odd = task.predict_lines(model, lines)
    assert isinstance(good, bytes)
    for fault, places in zip(huge, (500_000, 30_000), strict=True):
        with pytest.raises(UserError, match=f"takes {places} tokens, too many .*: 20000 are"):
            raise fault
    with pytest.raises(UserError, match="no symbol"):
        raise odd


@pytest.mark.parametrize(
    "flag", ["--temperature=1", "--max_tokens=3", "--seed=0", "--top_k=0", "--context=9"]
)
def test_flags_that_mean_nothing_here_are_refused(trained, flag):
    with pytest.raises(UserError, match=flag.split("=")[0]):
        predict.main([f"--workdir={trained}", flag, "1"])


def test_a_run_whose_examples_would_be_others_is_refused(trained, monkeypatch):
    loaded = load_run(trained)
    task, model = loaded.task, loaded.model
    monkeypatch.setitem(sys.modules["relpos.tasks.algorithmic"]._SEEDS, "test", 99)
    with pytest.raises(UserError, match="another corpus"):
        scores_of(task, model, "test")


# Quick in turns: what a task shows is seen in one presentation, and each presentation with many tasks.
SHOWN = [
    pytest.param(name, how, marks=() if (i + j) % 2 else pytest.mark.long)
    for i, name in enumerate(algorithmic.names())
    for j, how in enumerate(PRESENTATIONS)
]


@pytest.mark.parametrize(("name", "presentation"), SHOWN)
def test_every_task_is_learned_in_both_presentations(name, presentation):
    overrides = {
        "data.presentation": presentation,
        "data.shortest": max(3, algorithmic.task_class(name).min_length),
        "data.sources.selective_copy.blanks": 2,
        "data.sources.listops.expand": 0.9,
        "data.sources.mqar.pairs": 1,
        "eval_lengths": "7,11",
    }
    task = create_task(small(name, **overrides), NOWHERE)
    model = nnx.eval_shape(lambda: task.init_model(nnx.Rngs(0)))
    assert type(model).__name__ == ("Decoder" if presentation == "causal" else "TokenEncoder")
    batch = next(task.train_batches())
    assert batch["inputs"].max() < task.symbols.vocab_size
    metrics = nnx.eval_shape(lambda *x: task.metrics(*x, None), model, batch)
    assert set(metrics) == {"loss", *METRICS.names()}
    assert all(total.shape == () for total, _ in metrics.values())
    assert task.tokens(batch) == batch["scored"].sum()


@pytest.mark.parametrize("name", algorithmic.names())
def test_the_paper_says_how_a_task_is_shown(name):
    overrides = {
        "data.shortest": 4, "data.sources.listops.expand": 0.9, "data.sources.mqar.pairs": 1,
    }  # fmt: skip
    task = create_task(small(name, **overrides), NOWHERE)
    causal = algorithmic.task_class(name).presentation == "causal"
    kind = type(jax.eval_shape(lambda: task.init_model(nnx.Rngs(0)))).__name__
    assert kind == ("Decoder" if causal else "TokenEncoder")


@pytest.mark.parametrize(
    ("name", "presentation", "length"),
    [("stack_manipulation", "none", 3), ("bucket_sort", "none", 5), ("copy_cmc", "causal", 4)],
)
def test_scores_are_those_of_a_loop(name, presentation, length):
    task, model = untrained(name, presentation, **{"data.sources.copy_cmc.letters": 2})
    task.config = dataclasses.replace(task.config, test_examples=23)
    (record,) = scores_of(task, model, "test", lengths=[length])
    nats, right, exact = [], [], []
    batches = algorithmic.eval_batches(
        task.symbols, length=length, examples=23, batch_size=23, seed=1,
        presentation=None if presentation == "none" else presentation,
    )  # fmt: skip
    (batch,) = batches
    logits = np.asarray(logits_of(model, batch["inputs"], batch["segments"]), np.float64)
    for row, targets, scored in zip(logits, batch["targets"], batch["scored"], strict=True):
        hits = []
        for place in np.flatnonzero(scored):
            nats.append(np.log(np.exp(row[place]).sum()) - row[place, targets[place]])
            hits.append(row[place].argmax() == targets[place])
        right += hits
        exact.append(all(hits))
    assert 0 < np.mean(right) < 1
    assert record["loss"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert record["accuracy"] == pytest.approx(np.mean(right))
    assert record["exact_match"] == pytest.approx(np.mean(exact))


def test_runs_are_tested_on_the_same_examples_whatever_their_seed():
    one, two = (create_task(small(seed=seed), NOWHERE) for seed in (1, 2))
    assert one.describe() == two.describe()
    assert (next(one.train_batches())["inputs"] != next(two.train_batches())["inputs"]).any()
    other = create_task(small("odds_first"), NOWHERE)
    assert one.describe() != other.describe()
    alike = [
        create_task(small("counting", **{"data.sources.counting.max_tokens": most}), NOWHERE)
        for most in (512, 90)
    ]  # which differ on longer examples alone
    assert alike[0].describe() != alike[1].describe()


@nnx.jit
def logits_of(model, tokens, segments):
    return model(tokens, segments=segments)


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        *((name, "t5") for name in ("reverse", "compute_sqrt", "missing_duplicate", "copy_cmc")),
        ("reverse", "learned"),
    ],
)
@pytest.mark.parametrize("presentation", PRESENTATIONS)
def test_answers_are_the_most_probable_symbols(name, presentation, encoding):
    options = {"encoding": encoding, "encodings.learned.max_length": 23}
    options |= {"data.sources.copy_cmc.letters": 3}
    task, model = untrained(name, presentation, **options)
    batches = list(task._examples("test", 5, 4))
    assert batches
    for batch in batches:
        question = batch["targets"][0][: 5 - (presentation == "causal")]
        if presentation == "causal":
            question = batch["inputs"][0][:5]
        line = task.symbols.text(question).encode()
        (answer,) = task.predict_lines(model, [line])
        found = task.symbols.ids(answer.decode().replace("_", "0"))
        size = task.symbols.answer_size(question)
        end = task.symbols.end
        shown = list(question)
        if presentation == "causal":
            shown += [task.symbols.blank, *found]
            start = 5
        else:
            shown += [task.symbols.blank] * size
            start = 5
        row = np.zeros((2, 1, 23), np.int32)  # of one length, so that one program does
        row[:, 0, : len(shown)] = shown, [1] * len(shown)
        logits = logits_of(model, *row)[0]
        best = np.asarray(logits[start : start + size].argmax(-1))
        expected = task.symbols.text(best).split(" ")
        assert answer.decode().split() == expected[: len(found)]
        assert len(found) == size or expected[len(found)] == end


def test_an_option_reaches_the_task():
    task = create_task(small("bucket_sort", **{"data.sources.bucket_sort.letters": 9}), NOWHERE)
    assert task.symbols.vocab_size == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"data.source": "revers"}, "did you mean 'reverse'"),
        ({"data.presentation": "casual"}, "did you mean 'causal'"),
        ({"data.sources.bucket_sort.leters": 3}, r"data\.sources\.bucket_sort\.letters"),
        ({"data.source": "bucket_sort", "data.sources.bucket_sort.letters": 0}, "letters"),
        ({"data.shortest": -1}, "shortest"),
        ({"data.source": "parity", "eval_lengths": "-3"}, "no length -3"),
        ({"data.shortest": 8}, r"less than data\.shortest, 8"),
        ({"eval_lengths": "5,0"}, "'eval_lengths': reverse has no length 0"),
        ({"data.source": "lego", "data.shortest": 2, "eval_lengths": "27"}, "26 is the most"),
        ({"sequence_length": 0}, "sequence_length"),
        ({"eval_examples": 0}, "eval_examples"),
        ({"test_examples": 0}, "test_examples"),
        ({"encoding": "fox"}, "causal"),
        ({"encoding": "learned", "encodings.learned.max_length": 13}, "13 positions of learned"),
        ({"model.num_heads": 5}, "divide"),
        ({"optimizer.name": "adam"}, "adamw"),
    ],
)
def test_what_cannot_work_is_a_user_error_that_says_why(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train(small(**override), tmp_path / "run", Console(quiet=True))
    assert not (tmp_path / "run" / "config.json").exists()


def test_lengths_beyond_the_positions_are_told_and_the_others_scored(tmp_path, capsys):
    options = {"encoding": "learned", "encodings.learned.max_length": 14}
    task, model = untrained("reverse", **options)
    records = scores_of(task, model, "test", console=Console(width=200))
    assert [record["length"] for record in records] == [5, 7]
    assert "length 11 takes 22 tokens" in capsys.readouterr().out
    with pytest.raises(UserError, match="14 positions of learned"):
        scores_of(task, model, "test", lengths=[11])
    (complaint,) = task.predict_lines(model, [b"0 1 0 1 0 1 0 1"])
    assert "16 tokens" in str(complaint)


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [("flip_flop", "ignore", [0.8, 0.98, 0.1]), ("selective_copy", "blanks", [128, 64, 256])],
)
def test_a_papers_other_tests_are_scored_too(name, option, values, capsys):
    task = create_task(small(name, **{"test_examples": 3, "eval_lengths": "5"}), NOWHERE)
    variants = [task.symbols, *task._variants.values()]
    assert [getattr(variant, option) for variant in variants] == values
    model = task.init_model(nnx.Rngs(0))
    assert task.test_splits() == ["test", *task._variants]
    records = [record for split in task.test_splits() for record in scores_of(task, model, split)]
    assert [record["split"] for record in records] == task.test_splits()
    sizes = {len(task._examples(r["split"], 5, 3)[0]["targets"][0]) for r in records}
    assert len(sizes) == (3 if name == "selective_copy" else 1)
    with pytest.raises(UserError, match="did you mean 'dense'"):
        scores_of(task, model, "dens")


def test_lengths_that_take_minutes_to_draw_are_refused():
    for key in ("sequence_length", "eval_lengths"):
        with pytest.raises(UserError, match=rf"'{key}': length 1000000 is too long .* 100000 is"):
            create_task(small(**{key: 10**6}), NOWHERE)
    task, model = untrained("reverse")
    with pytest.raises(UserError, match=r"length 10{30} is too long"):
        scores_of(task, model, "test", lengths=[10**30])
