import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import encodings, evaluate, predict
from relpos.data import DataError
from relpos.errors import UserError
from relpos.nn import Sampling
from relpos.runs import load_run
from relpos.sections import flatten, to_plain
from relpos.tasks import language_modelling
from relpos.training import evaluation, run_config
from relpos.training.evaluation import score
from relpos.training.loop import train
from relpos.training.task import create_task

SMALL = {
    "steps": 2,
    "batch_size": 2,
    "sequence_length": 16,
    "model.num_layers": 2,
    "model.features": 16,
    "model.num_heads": 2,
    "eval_multiples": "1,2",
    "sample.max_tokens": 3,
    "sample.prompts": "The ",
}


def small(tmp_path, **overrides):
    text = tmp_path / "text.txt"
    if not text.exists():
        text.write_bytes(b"".join(b"Line %d of a text.\r\n\xff\x01" % n for n in range(200)))
    chosen = SMALL | {"data.source": "files", "data.sources.files.path": text} | overrides
    return run_config.load("configs/lm.py", [(key, str(value)) for key, value in chosen.items()])


def test_a_run_trains_and_is_evaluated_and_continues_prompts(tmp_path, capfdbinary):
    workdir = tmp_path / "run with a space"
    assert train(small(tmp_path), workdir, Console(width=60)) == 0
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    tested = [r for r in records if r["split"] == "test"]
    assert [r["length"] for r in tested] == [16, 32]
    assert tested[0]["bytes"] == tested[1]["bytes"] > 0
    assert json.loads((workdir / "config.json").read_text())["corpus"]["sha256"]

    trained = load_run(workdir)
    assert (trained.config.encoding, trained.step, trained.last_step) == ("rope", 2, 2)
    of_test = trained.metrics["test"]
    assert of_test["bits_per_byte"].tolist() == [r["bits_per_byte"] for r in tested]
    assert trained.tokenizer.decode(trained.tokenizer.encode(b"def")) == b"def"
    (text,) = trained.predict("def ", max_tokens=3, temperature=0.0)
    assert text.startswith("def ")
    (score,) = trained.evaluate(lengths=[16])
    assert score["bits_per_byte"] == pytest.approx(tested[0]["bits_per_byte"], rel=1e-5)
    assert len(trained.plot().axes) == 2

    out = tmp_path / "scores.json"
    evaluate.main([f"--workdir={workdir}", "--lengths=16", f"--json={out}"])
    assert json.loads(out.read_text())[0]["bits_per_byte"] == pytest.approx(
        tested[0]["bits_per_byte"], rel=1e-5
    )
    capfdbinary.readouterr()
    predict.main([f"--workdir={workdir}", "--max_tokens=4", "--seed=1", "ab", "\udcff"])
    first = capfdbinary.readouterr().out
    predict.main([f"--workdir={workdir}", "--max_tokens=4", "--seed=1", "ab", "\udcff"])
    assert capfdbinary.readouterr().out == first
    assert first.startswith(b"ab")
    assert b"\n\n\xff" in first


def test_a_long_prompt_is_read_from_its_last_tokens_and_told_once(tmp_path, caplog):
    task = create_task(small(tmp_path), tmp_path)
    graphdef, state = nnx.split(task.init_model(nnx.Rngs(0)))
    random = np.random.default_rng(0)
    noise = lambda x: x + jnp.asarray(0.3 * random.normal(size=x.shape), x.dtype)  # noqa: E731
    model = nnx.merge(graphdef, jax.tree.map(noise, state))
    end = bytes(range(60, 92))  # 32 tokens, the longest that is evaluated

    def continued(prompt, context=0):
        ((shown, new),) = task.predict(model, [[prompt]], Sampling(), 9, 0, context)
        assert shown == prompt
        return new

    assert continued(b"a" * 2_000_000 + end) == continued(b"b" * 99 + end)
    assert continued(b"a" * 99 + end, 200) != continued(b"b" * 99 + end, 200)
    assert [record.getMessage() for record in caplog.records] == [
        f"prompt 1 has {tokens} tokens; only its last 32 are read; --context=N changes that number"
        for tokens in (2_000_033, 132)
    ]
    caplog.clear()
    list(task.predict(model, [[b"short", b"c" * 40], [b"d" * 40]], Sampling(), 9, 0))
    assert ["prompt 2 has 41" in record.getMessage() for record in caplog.records] == [True]


def test_prompts_before_one_that_does_not_fit_are_continued(tmp_path):
    options = {"encoding": "learned", "encodings.learned.max_length": 40}
    task = create_task(small(tmp_path, **options), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    chunks = [[b"a"], [b"b", b"c" * 36, b"d" * 37, b"e"]]
    pairs = task.predict(model, chunks, Sampling(0), 3, 0, context=99)
    assert [next(pairs)[0] for _ in range(3)] == [b"a", b"b", b"c" * 36]
    with pytest.raises(UserError, match=r"prompt 4 \(38 tokens\) and 3 more .* 40 .*--context=N"):
        next(pairs)
    pairs = task.predict(model, chunks, Sampling(0), 3, 0, context=20)
    assert [shown for shown, _ in pairs] == [*chunks[0], *chunks[1]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"encoding": "ropee"}, "rope"),
        ({"model.num_heads": 3}, "divide"),
        ({"model.num_kv_heads": 3}, "num_kv_heads"),
        ({"model.num_layers": 0}, "num_layers"),
        ({"encoding": "rope,none,t5"}, "multiple"),
        ({"model.features": 6, "model.num_heads": 2}, "pairs"),
        ({"batch_size": 0}, "batch_size"),
        ({"sample.top_p": 0}, "top_p"),
        ({"sample.top_k": 2**40}, "top_k"),
        ({"sample.max_tokens": 10**9}, "section 'sample': max_tokens must be from 1 to 65536"),
        ({"model.dropout_rate": 1.0}, "dropout_rate"),
        ({"model.dtype": "int32"}, "float32, bfloat16"),
        ({"eval_multiples": "0"}, "eval_multiples"),
        ({"encoding": "learned", "encodings.learned.max_length": 8}, "8 positions of learned"),
        ({"task": "relpos.config_files"}, "without Config"),
    ],
)
def test_what_cannot_work_is_a_user_error_that_says_why(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train(small(tmp_path, **override), tmp_path / "run", Console())


NUMBERS = {
    key: value
    for key, value in flatten(to_plain(run_config.load("configs/lm.py"))).items()
    if isinstance(value, int | float) and not isinstance(value, bool)
    and not key.startswith(("encodings.", "data.sources."))  # of components, which check their own
    and key != "data.vocab_size"  # of sentencepiece
}  # fmt: skip


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_may_be_negative(tmp_path, key):
    with pytest.raises(UserError, match=key.rsplit(".", maxsplit=1)[-1]):
        train(small(tmp_path, **{key: -1}), tmp_path / "run", Console())
    assert not (tmp_path / "run" / "config.json").exists()


OPTIONS = {
    name: [key for key, value in encodings.options(name).items()
           if isinstance(value, int | float) and not isinstance(value, bool)]
    for name in encodings.names()
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, keys in OPTIONS.items() if keys])
def test_a_scheme_refuses_an_option_or_stays_finite(name):
    for key in OPTIONS[name]:
        for wrong in (0, -1, float("inf"), float("nan")):
            try:
                made = encodings.create(
                    name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0), **{key: wrong}
                )
            except ValueError as error:
                assert f"{name}.{key}" in str(error)  # noqa: PT017
                continue
            assert np.isfinite(wrong)
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(nnx.state(made)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with a tokenizer of its own."""
    folder = tmp_path_factory.mktemp("trained")
    config = small(
        folder, **{"data.tokenizer": "sentencepiece", "data.vocab_size": 290, "eval_multiples": "1"}
    )
    assert train(config, folder / "run", Console(quiet=True)) == 0
    return folder


def copy(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path / "run"


def test_a_text_that_has_changed_is_not_scored_as_the_runs_own(trained):
    text = trained / "text.txt"
    before = text.read_bytes()
    text.write_bytes(before[:-700])
    try:
        with pytest.raises(UserError, match="another corpus"):
            evaluate.main([f"--workdir={trained / 'run'}", "--lengths=16"])
    finally:
        text.write_bytes(before)


def test_a_model_goes_on_without_its_corpus(trained, capfdbinary):
    text = trained / "text.txt"
    text.rename(trained / "moved")
    try:
        predict.main([f"--workdir={trained / 'run'}", "--max_tokens=2", "ab"])
        assert capfdbinary.readouterr().out.startswith(b"ab")
        other = trained / "other.txt"
        other.write_bytes(b"A line.\n" * 40)
        evaluate.main([f"--workdir={trained / 'run'}", "--lengths=16", f"--text={other}"])
    finally:
        (trained / "moved").rename(text)


def test_a_lost_tokenizer_is_not_trained_anew(trained, tmp_path):
    workdir = copy(trained, tmp_path)
    (workdir / "tokenizer.model").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.model' is missing"):
        predict.main([f"--workdir={workdir}", "ab"])
    assert not (workdir / "tokenizer.model").exists()


def test_a_start_that_fails_leaves_nothing_behind(tmp_path):
    config = small(
        tmp_path,
        **{"data.tokenizer": "sentencepiece", "data.vocab_size": 290, "sequence_length": 10**6},
    )
    with pytest.raises((UserError, DataError), match="fewer than one sequence"):
        train(config, tmp_path / "run", Console(quiet=True))
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_samples_that_do_not_fit_do_not_spoil_the_run(tmp_path, capsys):
    config = small(
        tmp_path,
        **{
            "encoding": "learned",
            "encodings.learned.max_length": 33,
            "sample.max_tokens": 50,
            "steps": 1,
        },
    )
    assert train(config, tmp_path / "run", Console()) == 0
    assert "no samples: prompt 1" in capsys.readouterr().out


def test_why_there_are_no_samples_is_told_without_control_characters(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise UserError("of \x1b]0;x\x07 [b]")

    monkeypatch.setattr(language_modelling.Causal, "_show_samples", refuse)
    assert train(small(tmp_path, steps=1), tmp_path / "run", Console()) == 0
    told = capsys.readouterr().out
    assert "no samples: of" in told
    assert "[b]" in told
    assert "\x1b" not in told
    assert (tmp_path / "run" / "summary.txt").exists()


def test_bits_per_byte_of_a_model_that_knows_nothing(tmp_path):
    task = create_task(small(tmp_path), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    table = model.embed.table.embedding
    table[...] = jnp.zeros_like(table[...])  # all logits are 0
    documents = [b"a text", b"another, longer text of several windows"]
    size = sum(map(len, documents))
    expected = np.log2(257) * (size + len(documents)) / size
    for length in (7, 16):
        (case,) = task._cases(model, documents, [length])
        (record,) = score(task, model, case)
        assert record["bytes"] == size
        assert record["loss"] == pytest.approx(np.log(257), rel=1e-6)
        assert record["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    batch = next(iter(task.train_batches()))
    metrics = task.metrics(model, jax.device_put(batch), None)
    nats, targets = map(float, metrics["loss"])
    bits, text_bytes = map(float, metrics["bits_per_byte"])
    assert nats / targets == pytest.approx(np.log(257), rel=1e-6)
    assert bits == pytest.approx(np.log2(257) * targets, rel=1e-6)
    ends = (batch["targets"] == 256) & (batch["segments"] > 0)
    assert text_bytes == targets - ends.sum()


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path):
    task = create_task(small(tmp_path), tmp_path)
    model = task.init_model(nnx.Rngs(0))
    for length in (10**12, 10**30):
        with pytest.raises(UserError, match=rf"1 x {length} tokens would be read together"):
            evaluation.evaluate(task, model, "test", lengths=[16, length])


def test_a_batch_that_does_not_fit_into_memory_is_refused(tmp_path):
    config = small(tmp_path, batch_size=10**8)
    with pytest.raises(UserError, match=r"activations of a batch .*make batch_size=100000000"):
        train(config, tmp_path / "run", Console(quiet=True))
