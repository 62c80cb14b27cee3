import json

import pytest
from rich.console import Console

from relpos import config as config_lib
from relpos import evaluate, predict
from relpos.errors import UserError
from relpos.training.loop import train

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
        text.write_bytes(b"".join(b"Line %d of a text.\r\n\xff\x00" % n for n in range(200)))
    chosen = SMALL | {"data.path": text} | overrides
    return config_lib.load("configs/lm.py", [(key, str(value)) for key, value in chosen.items()])


def test_a_run_trains_and_is_evaluated_and_continues_prompts(tmp_path, capfdbinary):
    workdir = tmp_path / "run with a space"
    assert train(small(tmp_path), workdir, Console(width=60)) == 0
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    tested = [r for r in records if r["split"] == "test"]
    assert [r["length"] for r in tested] == [16, 32]
    assert tested[0]["bytes"] == tested[1]["bytes"] > 0
    assert json.loads((workdir / "config.json").read_text())["corpus"]["sha256"]

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
    ],
)
def test_what_cannot_work_is_a_user_error_that_says_why(tmp_path, override, message):
    with pytest.raises(UserError, match=message):
        train(small(tmp_path, **override), tmp_path / "run", Console())
