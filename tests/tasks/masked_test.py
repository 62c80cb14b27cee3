import io
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import evaluate, predict
from relpos.errors import UserError
from relpos.runs import load_run
from relpos.training import run_config
from relpos.training.evaluation import score
from relpos.training.loop import train
from relpos.training.task import create_task

SMALL = {
    "objective": "masked",
    "steps": 2,
    "batch_size": 2,
    "sequence_length": 32,
    "model.num_layers": 2,
    "model.features": 16,
    "model.num_heads": 2,
    "eval_multiples": "1,2",
}


def small(tmp_path, **overrides):
    text = tmp_path / "text.txt"
    if not text.exists():
        text.write_bytes(b"".join(b"Line %d of a text.\n" % n for n in range(300)))
    chosen = SMALL | {"data.source": "files", "data.sources.files.path": text} | overrides
    return run_config.load("configs/lm.py", [(key, str(value)) for key, value in chosen.items()])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    assert train(small(folder), folder / "run", Console(file=io.StringIO(), width=60)) == 0
    return folder / "run"


def test_a_run_is_scored_by_the_perplexity_of_what_is_masked(trained, tmp_path):
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    tested = [record for record in records if record["split"] == "test"]
    assert [record["length"] for record in tested] == [32, 64]
    for record in tested:
        assert record["perplexity"] == pytest.approx(np.exp(record["loss"]))
        assert "bits_per_byte" not in record
    out = tmp_path / "scores.json"
    evaluate.main([f"--workdir={trained}", "--lengths=32", f"--json={out}"])
    (again,) = json.loads(out.read_text())
    assert again["perplexity"] == pytest.approx(tested[0]["perplexity"], rel=1e-5)


def test_masks_in_lines_are_filled_in_and_bad_lines_told(trained, capfdbinary, monkeypatch):
    lines = b"Li[MASK]e [MASK]\nno mask\n[MASK]\n" + b"\xff[MASK]\xc3\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    assert predict.main([f"--workdir={trained}"]) == 1
    out, complaints = capfdbinary.readouterr()
    first, second, third, fourth = out.split(b"\n")[:4]
    assert len(out.split(b"\n")) == 5
    assert (len(first), second, len(third), len(fourth)) == (6, b"", 1, 3)
    assert first.startswith(b"Li")
    assert first[3:5] == b"e "
    assert (fourth[:1], fourth[2:]) == (b"\xff", b"\xc3")
    assert complaints.decode().startswith("line 2: it has no [MASK]")
    assert complaints.count(b"\n") == 1
    assert predict.main([f"--workdir={trained}", "[MASK]"]) == 0


def test_what_is_filled_in_is_most_probable(trained):
    loaded = load_run(trained)
    task, model = loaded.task, loaded.model
    ids = np.array([*b"Line 1[MASK] of".replace(b"[MASK]", b"?")])
    ids[6] = task.objective.mask
    logits = np.array(model(jnp.asarray(ids)[None])[0, 6, :256])
    logits[[10, 13]] = -np.inf  # one line remains one line
    assert task.predict_lines(model, [b"Line 1[MASK] of"]) == [b"Line 1%c of" % logits.argmax()]


def test_what_is_filled_in_does_not_depend_on_the_other_lines(trained):
    loaded = load_run(trained)
    task, model = loaded.task, loaded.model
    lines = [b"Line %d[MASK]" % n + n * b"x" for n in range(50)] + [b"x" * 64 + b"[MASK]"]
    answers = task.predict_lines(model, lines)
    assert "65 tokens, more than the 64 that the run is evaluated at" in str(answers.pop())
    for n in (0, 21, 49):
        assert task.predict_lines(model, [lines[n]]) == [answers[n]]
        assert answers[n].startswith(b"Line %d" % n)


@pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece"])
def test_the_mask_is_no_token(tmp_path, tokenizer):
    config = small(tmp_path, **{"data.tokenizer": tokenizer, "data.vocab_size": 290})
    task = create_task(config, tmp_path)
    assert task.objective.mask == task.objective.vocab_size == task.tokenizer.vocab_size
    batch = jax.device_put(next(iter(task.train_batches())))
    shown, targets, weights, _ = task.objective(batch, jax.random.key(0))
    assert (shown == task.objective.mask).any()
    assert (targets != task.objective.mask).all()
    assert (targets[weights > 0] != task.tokenizer.separator).all()
    model = task.init_model(nnx.Rngs(0))
    assert model(shown).shape[-1] == task.tokenizer.vocab_size + 1


def test_the_model_sees_both_sides_and_nothing_else_counts(tmp_path):
    task = create_task(small(tmp_path), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (1, 8)))
    changed = model(tokens.at[0, 7].set((tokens[0, 7] + 1) % 256))
    assert (jnp.abs(changed - model(tokens)).max(-1) > 1e-6)[0, 0]
    table = model.embed.table.embedding
    table[...] = jnp.zeros_like(table[...])  # all logits are 0
    (case,) = task._cases(model, [b"some text to be masked " * 9], [16])
    (record,) = score(task, model, case)
    assert record["loss"] == pytest.approx(np.log(258), rel=1e-6)
    assert record["perplexity"] == pytest.approx(258, rel=1e-5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"objective": "maksed"}, "did you mean 'masked'"),
        ({"encoding": "fox"}, "causal"),
    ],
)
def test_what_cannot_work_is_a_user_error_that_says_why(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train(small(tmp_path, **override), tmp_path / "run", Console(quiet=True))
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_line_longer_than_the_positions_is_named(tmp_path):
    options = {"encoding": "learned", "encodings.learned.max_length": 64}
    task = create_task(small(tmp_path, **options), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    answer, complaint = task.predict_lines(model, [b"a" * 63 + b"[MASK]", b"a" * 64 + b"[MASK]"])
    assert len(answer) == 64
    assert "65 tokens are more than the 64 positions of learned" in str(complaint)
