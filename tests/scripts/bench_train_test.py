import json
from unittest import mock

import pytest

from tests.scripts.load import script

models = script("bench_models")
bench = script("bench_train")
TINY = models.Size(2, 8, 2, 11, B=2, T=6)


@pytest.mark.long
@mock.patch.dict("os.environ")  # which gets what processes are set up with
def test_contestants_take_turns_and_are_written(tmp_path, capsys):
    """Processes of their own, of the smallest size that the script knows."""
    file = tmp_path / "figures.json"
    only = "relpos t5,Hugging Face T5"
    arguments = ["--parts", "step", "--sizes", "2 + 2 x 256", "--rounds", "2", "--only", only]
    assert bench.main([*arguments, "--json", str(file)]) == 0
    (rows,) = json.loads(file.read_text())["tables"]["step"].values()
    assert rows[0]["name"] == "relpos t5"
    assert rows[0]["tokens_per_second"] == pytest.approx(32 * 64 / rows[0]["seconds"])
    assert rows[0]["first_seconds"] > rows[0]["seconds"] > 0
    assert rows[0]["bytes"] > 0
    assert "tokens/s" in capsys.readouterr().out


@pytest.mark.parametrize("name", [pytest.param("relpos t5", marks=pytest.mark.long), "plain Flax"])
def test_steps_lower_the_loss(name):
    step = models.steps(TINY)[name]()
    first, *_, last = (step() for _ in range(8))
    assert last < first


def test_a_generation_has_all_its_tokens(monkeypatch):
    monkeypatch.setattr(models, "NEW", 5)
    monkeypatch.setattr(models, "PROMPT", 4)
    assert models.relpos_generation(TINY, "rope", 3)().shape == (3, 5)


def test_what_is_unknown_is_refused(capsys):
    for arguments in (["--parts", "steps"], ["--sizes", "4x256"], ["--rounds", "1"]):
        with pytest.raises(SystemExit):
            bench.main(arguments)
    assert "known: 4 x 256" in capsys.readouterr().err
