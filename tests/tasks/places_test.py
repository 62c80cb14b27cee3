"""Every way to place tokens in every task that takes it: trained, scored, asked."""

import io
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from relpos import places
from relpos.errors import UserError
from relpos.nn import Sampling
from relpos.runs import load_run
from relpos.training import run_config
from relpos.training.loop import train
from relpos.training.task import create_task

SMALL = {
    "steps": 2,
    "batch_size": 2,
    "model.num_layers": 1,
    "model.features": 8,
    "model.num_heads": 2,
}
LINES = b"The sum of 12 and 345 is 357.\n" * 99
TASKS = {
    "lm": {"sequence_length": 16, "eval_multiples": "1,2", "sample.max_tokens": 3, "encoding": "rope"},
    "qa": {"sequence_length": 128, "eval_questions": 4, "eval_multiples": 1, "data.tokenizer": "bytes"},
    "algorithmic": {"data.source": "addition", "data.presentation": "causal", "sequence_length": 3,
                    "eval_lengths": "2,3", "eval_examples": 2, "test_examples": 2},
}  # fmt: skip


QUICK = (("lm", "randomized"), ("lm", "abacus"), ("algorithmic", "abacus"))


def small(task, name, tmp_path, **overrides):
    chosen = SMALL | TASKS[task] | {"positions": name} | overrides
    if task == "lm":
        (tmp_path / "text.txt").write_bytes(LINES)
        chosen |= {"data.source": "files", "data.sources.files.path": tmp_path / "text.txt"}
    return run_config.load(f"configs/{task}.py", [(key, str(x)) for key, x in chosen.items()])


# Runs of other tests have no places.
@pytest.mark.parametrize(
    ("task", "name"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.long)
        for case in itertools.product(("lm", "algorithmic"), places.names())
    ],
)
def test_a_run_trains_and_is_scored_and_goes_on(tmp_path, task, name):
    workdir = tmp_path / "run"
    config = small(task, name, tmp_path)
    assert train(config, workdir, Console(file=io.StringIO(), width=60)) == 0
    tested = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(record["loss"]) for record in tested if "loss" in record)
    loaded = load_run(workdir)
    made, model = loaded.task, loaded.model
    assert type(model.places) is places.kind(name)
    if task == "lm":
        ((_, text),) = made.predict(model, [[b"12 + 345"]], Sampling(), 4, 0)
        assert len(text) <= 4
    else:
        assert made.predict_lines(model, [b"1 2 + 3"])[0] is not None


DIGITS = {"lm": tuple(range(48, 58)), "algorithmic": tuple(range(10)), "qa": tuple(range(48, 58))}


@pytest.mark.parametrize("task", TASKS)
def test_abacus_is_told_which_tokens_are_digits(tmp_path, task):
    made = create_task(small(task, "abacus", tmp_path), tmp_path)
    model = made.init_model(nnx.Rngs(0))
    found = model.encoder.places if task == "qa" else model.places
    assert tuple(found.digits) == DIGITS[task]


def test_an_encoder_of_questions_is_trained_on_other_positions_each_step(tmp_path):
    made = create_task(small("qa", "randomized", tmp_path), tmp_path)
    graphdef, state = nnx.split(made.init_model(nnx.Rngs(0)))
    state = jax.tree.map(lambda x: x + 0.1, state)
    batch = next(made.train_batches())
    loss = jax.jit(lambda key: made.metrics(nnx.merge(graphdef, state), batch, key)["loss"][0])
    one, other = (loss(jax.random.key(seed)) for seed in (0, 1))
    assert jnp.isfinite(one)
    assert one != other


def test_what_cannot_work_is_a_user_error_that_says_why(tmp_path):
    for overrides, message in (
        ({"positions": "randomised"}, "config key 'positions' must be .* did you mean 'randomized'"),
        ({"places.randomized.max_length": 0}, "randomized.max_length must be from 1"),
        ({"places.randomized.max_length": 9}, "16 tokens are more than the 9 positions of rope or randomized"),
        ({"encoding": "tupe"}, "positions up to 2047 are drawn, more than the 512 of tupe"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            create_task(small("lm", "randomized", tmp_path, **overrides), tmp_path)
