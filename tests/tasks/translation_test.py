import codecs
import io
import itertools
import json

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import evaluate, predict
from relpos.errors import UserError
from relpos.nn import Beams
from relpos.training import run_config
from relpos.training.evaluation import means
from relpos.training.loop import train
from relpos.training.run_directory import RunDirectory
from relpos.training.task import create_task

SMALL = {
    "steps": 2,
    "batch_size": 4,
    "sequence_length": 12,
    "search.max_length": 11,
    "search.beams": 2,
    "model.num_layers": 1,
    "model.features": 16,
    "model.num_heads": 2,
    "data.tokenizer": "words",
    "data.joint_vocabulary": "false",
    "eval_pairs": 3,
}
NUMBERS = [b"zero", b"one", b"two", b"three", b"four"]


def small(tmp_path, **overrides):
    """Digits and their names, as files."""
    for name, digits in (("train", 3), ("test", 2)):
        lines = list(itertools.product(range(5), repeat=digits))
        if not (tmp_path / f"{name}.a").exists():
            (tmp_path / f"{name}.a").write_bytes(
                b"\n".join(b" ".join(b"%d" % d for d in line) for line in lines)
            )
            (tmp_path / f"{name}.b").write_bytes(
                b"\n".join(b" ".join(NUMBERS[d] for d in line) for line in lines)
            )
    files = {
        "data.source": "files",
        "data.sources.files.source": tmp_path / "train.a",
        "data.sources.files.target": tmp_path / "train.b",
        "data.sources.files.test_source": tmp_path / "test.a",
        "data.sources.files.test_target": tmp_path / "test.b",
    }
    chosen = SMALL | files | overrides
    items = [(key, str(value)) for key, value in chosen.items()]
    return run_config.load("configs/translation.py", items)


def test_a_run_with_sentencepiece_trains_and_is_scored(tmp_path):
    workdir = tmp_path / "run"
    overrides = {"data.tokenizer": "sentencepiece", "data.vocab_size": 280}
    overrides |= {"data.joint_vocabulary": "true", "sequence_length": 40}
    assert train(small(tmp_path, **overrides), workdir, Console(width=60)) == 0
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    tested = [r for r in records if r["split"] == "test" and "source_words" not in r]
    assert [r["search"] for r in tested] == ["greedy", "beam 2"]
    for record in tested:
        assert record["pairs"] == 25
        assert {"bleu", "chrf", "exact_match"} <= set(record)
        assert 0 <= record["bleu"] <= 100
        tokens = record["tokens_per_second"] * record["seconds"]
        assert tokens == pytest.approx(round(tokens), abs=1e-6)
        assert 0 < tokens <= record["pairs"] * 39  # sequence_length leaves so many for each
    validation = next(r for r in records if r["split"] == "validation")
    assert validation["pairs"] == 3


@pytest.mark.long
def test_it_learns_to_translate_and_finds_its_way_back(tmp_path):
    workdir = tmp_path / "run"
    config = small(
        tmp_path,
        **{"steps": 300, "batch_size": 16, "model.features": 32, "model.dropout_rate": 0},
        **{"search.oracle_length": "true"},
    )
    assert train(config, workdir, Console(width=60)) == 0
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = [r for r in records if r["split"] == "validation"][-1]
    assert last["exact_match"] == 100
    # Of two digits, of which it was shown none: whatever is right of them is right in every table.
    greedy, beam, *by_length = (r for r in records if r["split"] == "test")
    assert greedy["oracle_exact_match"] >= greedy["exact_match"]
    assert (by_length[0]["source_words"], by_length[0]["pairs"]) == ("1-5", 25)
    assert by_length[0]["bleu"] == beam["bleu"]
    assert by_length[0]["chrf"] == beam["chrf"] > 0
    from relpos.runs import load_run

    loaded = load_run(workdir)
    task, model = loaded.task, loaded.model
    lines = [b"3 1 4", b"", b"\xff", b"1 " * 12, b"1 0 2"]
    found = task.predict_lines(model, lines)
    assert [found[0], found[4]] == [b"three one four", b"one zero two"]
    unclean = codecs.BOM_UTF8 + "\u00a03 1 4 \r".encode()
    assert task.predict_lines(model, [unclean, b" \t"])[0] == found[0]
    messages = [str(fault) for fault in found[1:4]]
    assert all(isinstance(fault, UserError) for fault in found[1:4])
    assert "empty" in messages[0]
    assert "UTF-8" in messages[1]
    assert "12 tokens" in messages[2]
    # At a length that is given, that many words.
    found, tokens = task.translate(model, lines[:1] + lines[4:], Beams(1), [2, 3])
    assert [len(text.split()) for text in found] == [2, 3]
    assert tokens == 5


@pytest.fixture
def finished(tmp_path):
    """A folder with files of text and a finished run, but for its checkpoints, which are read last."""
    workdir, config = tmp_path / "run", small(tmp_path)
    directory = RunDirectory(workdir, config)
    directory.describe(create_task(config, workdir).describe())
    directory.close()
    (workdir / "checkpoints").mkdir()
    (workdir / "summary.txt").write_text("finished")
    return tmp_path


def test_a_vocabulary_in_another_order_is_refused_by_name(finished):
    workdir = finished / "run"
    path = workdir / "tokenizer.target.json"
    pieces = json.loads(path.read_text())
    path.write_text(json.dumps(pieces[::-1]))
    (workdir / "summary.txt").unlink()
    for use in (
        lambda: predict.main([f"--workdir={workdir}", "1 2"]),
        lambda: evaluate.main([f"--workdir={workdir}"]),
        lambda: train(small(finished), workdir, Console(quiet=True)),
    ):
        with pytest.raises(UserError, match=r"tokenizer\.target\.json' is not the file that this"):
            use()


def test_data_that_have_moved_go_on_and_others_do_not(finished):
    workdir, moved = finished / "run", finished / "moved"
    moved.mkdir()
    small(moved)
    (moved / "train.a").rename(moved / "renamed.a")
    here = {"data.sources.files.source": moved / "renamed.a"}
    console = Console(file=io.StringIO(), width=200)
    assert train(small(moved, **here), workdir, console) == 0
    told = console.file.getvalue().splitlines()
    assert [line.split()[0] for line in told[:4]] == [
        f"data.sources.files.{name}" for name in ("source", "target", "test_source", "test_target")
    ]
    assert all(line.endswith(": the same data") for line in told[:4])
    stored = json.loads((workdir / "config.json").read_text())
    assert stored["config"]["data"]["sources"]["files"]["source"] == str(moved / "renamed.a")
    with pytest.raises(UserError, match=r"another corpus:\n  corpus\.languages"):
        train(
            small(moved, **here, **{"data.sources.files.languages": "en,zh"}),
            workdir,
            Console(quiet=True),
        )
    (moved / "test.a").write_bytes(b"0 0\n" * 25)
    here |= {
        "data.sources.files.validation_source": moved / "test.a",
        "data.sources.files.validation_target": moved / "test.b",
    }
    with pytest.raises(UserError, match="another corpus"):
        train(small(moved, **here), workdir, Console(quiet=True))
    assert json.loads((workdir / "config.json").read_text()) == stored


def means_of(task, model, pairs):
    case = task.case(pairs, brief=True)
    return {**case.labels, **means(task, model, case)[0]}


def test_smoothing_is_the_cross_entropy_with_a_mixture(tmp_path):
    losses = {}
    for smoothing in (0.0, 0.25):
        task = create_task(small(tmp_path, label_smoothing=smoothing), tmp_path)
        model = task.init_model(nnx.Rngs(0))
        batch = next(task.train_batches())

        @nnx.jit
        def both(model, batch, task=task):
            logits = model(
                batch["source"], batch["inputs"],
                source_segments=batch["source_segments"], target_segments=batch["segments"],
            )  # fmt: skip
            return task.metrics(model, batch, None), logits

        metrics, logits = both(model, batch)
        total, count = metrics.get("objective", metrics["loss"])
        losses[smoothing] = total / count
        log = np.asarray(jax.nn.log_softmax(logits), np.float64)
        V = log.shape[-1]
        wanted = np.eye(V)[np.asarray(batch["targets"])] * (1 - smoothing) + smoothing / V
        weight = np.asarray(batch["segments"])
        expected = -((wanted * log).sum(-1) * weight).sum() / weight.sum()
        assert losses[smoothing] == pytest.approx(expected, rel=1e-5)
        total, count = metrics["loss"]
        assert total / count == pytest.approx(float(losses[0.0]), rel=1e-5)


def test_the_loss_of_a_split_does_not_depend_on_batches_and_counts_what_is_too_long(tmp_path):
    task = create_task(small(tmp_path), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    pairs = [
        (b"1 2", b"one two"),
        (b"3", b"three"),
        (b"1 " * 12, b"one"),
        (b"4 4 4", b"four four four"),
    ]
    whole = means_of(task, model, pairs)
    assert whole["too_long"] == 1
    parts = [
        means_of(task, model, [pair])["loss"] * n
        for pair, n in zip([*pairs[:2], pairs[3]], (3, 2, 4), strict=True)
    ]
    assert whole["loss"] == pytest.approx(sum(parts) / 9, rel=1e-5)


def test_some_pairs_are_from_all_over_a_split(tmp_path):
    task = create_task(small(tmp_path), tmp_path)
    firsts = [source.split()[0] for source, _ in task.corpus.splits["test"]]
    assert firsts == sorted(firsts)
    some = task._pairs("test", 15)
    assert {source.split()[0] for source, _ in some} == set(firsts)
    assert len(set(some)) == 15
    assert some == task._pairs("test", 15)
    assert task._pairs("test", None) == list(task.corpus.splits["test"])


def test_an_unknown_word_is_named(tmp_path):
    task = create_task(small(tmp_path), tmp_path)
    known, unknown = task.predict_lines(task.init_model(nnx.Rngs(0)), [b"1 2", b"1 seven 7 2"])
    assert isinstance(known, bytes)
    assert str(unknown) == "words that the model has not seen: seven, 7"


def test_a_translation_may_be_as_long_as_a_target(tmp_path):
    task = create_task(small(tmp_path, **{"search.max_length": "none"}), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    (found,), count = task.translate(model, [b"1 2"], Beams(1), [11])
    assert len(found.split()) == count == 11


def test_a_packed_vocabulary_shares_its_table(tmp_path):
    task = create_task(small(tmp_path, **{"data.joint_vocabulary": "true"}), tmp_path)
    assert task.source is task.target
    assert task.init_model(nnx.Rngs(0)).source is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"encoding": "ropee"}, "rope"),
        ({"decoder_encoding": "sinus"}, "sinusoidal"),
        ({"cross_encoding": "sinusoidal"}, "cross-attention has none"),
        ({"encoding": "fox", "decoder_encoding": "fox"}, "causal"),
        ({"model.num_heads": 3}, "divide"),
        ({"model.norm_placement": "middle"}, "unknown norm_placement 'middle': known: pre"),
        ({"search.beams": 0}, "beams"),
        ({"search.max_length": -1}, "search.max_length"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"data.source": "cldr", "data.sources.cldr.lengths": "1,2,3"}, "lengths must be"),
        ({"data.tokenizer": "word"}, "words"),
        ({"encoding": "learned", "encodings.learned.max_length": 5}, "positions of"),
        ({"data.sources.files.target": ""}, "two files"),
    ],
)
def test_a_mistake_is_named_before_training(tmp_path, override, message):
    with pytest.raises(Exception, match=message) as caught:
        create_task(small(tmp_path, **override), tmp_path).describe()
    assert isinstance(caught.value, UserError)


def test_files_of_unequal_length_are_refused_with_both_counts(tmp_path):
    config = small(tmp_path)
    with (tmp_path / "train.b").open("ab") as file:
        file.write(b"\nfour\nfour")
    with pytest.raises(UserError, match=r"125.*127"):
        create_task(config, tmp_path).describe()


def test_other_pairs_are_refused_when_a_run_goes_on(tmp_path):
    workdir, config = tmp_path / "run", small(tmp_path)
    directory = RunDirectory(workdir, config)
    directory.describe(create_task(config, workdir).describe())
    directory.close()
    create_task(config, workdir).describe()
    (tmp_path / "test.b").write_bytes((tmp_path / "test.b").read_bytes().replace(b"zero", b"nil"))
    with pytest.raises(UserError, match="corpus"):
        create_task(config, workdir).describe()


def test_a_vocabulary_of_a_directory_without_a_run_is_made_anew_and_the_old_one_kept(tmp_path):
    config, workdir = small(tmp_path), tmp_path / "run"
    workdir.mkdir()
    (workdir / "tokenizer.source.json").write_text('["another", "corpus"]')
    assert create_task(config, workdir).source.vocab_size == 5 + 2
    assert (workdir / "old.tokenizer.source.json").read_text() == '["another", "corpus"]'


def test_pairs_that_are_left_out_are_told(tmp_path):
    task = create_task(small(tmp_path, sequence_length=3), tmp_path)
    kept = len(task.corpus.splits["train"])
    assert f"{kept} of the first {kept} training pairs do not fit" in task.notes()[-1]
    record = means_of(task, task.init_model(nnx.Rngs(0)), [(b"1 2 3 4", b"one")])
    assert np.isnan(record["loss"])
    assert record["too_long"] == 1


def test_an_unseen_row_of_padding_changes_nothing(tmp_path):
    task = create_task(small(tmp_path), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    batch = next(task.train_batches())
    longer = {name: np.pad(x, ((0, 2), (0, 4))) for name, x in batch.items()}
    loss = nnx.jit(lambda model, batch: task.metrics(model, batch, None)["loss"][0])
    losses = [loss(model, b) for b in (batch, longer)]
    assert losses[0] == pytest.approx(float(losses[1]), rel=1e-5)
