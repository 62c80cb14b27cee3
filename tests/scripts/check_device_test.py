import json

import jax
import pytest

import relpos
from tests.scripts.load import script

check_device = script("check_device")


def test_a_rehearsal_checks_measures_and_writes(tmp_path, capsys):
    kinds = ["packed", "bidirectional"]
    arguments = ["--small", "--encodings", "t5,fox", "--out", str(tmp_path)]
    arguments += ["--calls", ",".join(kinds)]
    assert check_device.main(arguments) == 0
    (written,) = tmp_path.glob("*.json")
    record = json.loads(written.read_text())
    checked = {(c["scheme"], c["call"], c["path"]) for c in record["checks"]}
    paths = {kind: check_device.CALLS[kind].paths for kind in kinds}
    assert set(paths["packed"]) == {"reference", "blockwise", "pallas"}
    causal = [kind for kind in kinds if check_device.CALLS[kind].causal]
    assert checked == {("t5", kind, path) for kind in kinds for path in paths[kind]} | {
        ("fox", kind, path) for kind in causal for path in paths[kind]
    }
    timed = {s["name"]: s for s in record["speeds"] if s["pass"] == "step"}
    assert timed["t5, blockwise"]["ms"] > 0
    assert "cuDNN" in timed["cuDNN"]["error"]  # not on a CPU, and the others went on
    assert "7 of 7 calls agree" in capsys.readouterr().out


def test_a_path_that_is_off_is_told(tmp_path, capsys, monkeypatch):
    attention = relpos.attention

    def wrong(*args, implementation, **kw):
        out = attention(*args, implementation=implementation, **kw)
        return out * (1.02 if implementation == "blockwise" else 1)

    monkeypatch.setattr(relpos, "attention", wrong)
    arguments = ["--small", "--parts", "checks", "--encodings", "none", "--out"]
    assert check_device.main([*arguments, str(tmp_path)]) == 1
    paths = [path for call in check_device.CALLS.values() for path in call.paths]
    right = len(paths) - paths.count("blockwise")
    assert f"{right} of {len(paths)} calls agree" in capsys.readouterr().out


def test_a_difference_is_measured_by_the_largest_number_beside_it():
    one, offset = jax.numpy.ones(3), jax.numpy.full(1, 1e-9)
    off = check_device.difference(((one,), (one, offset)), ((one,), (one, -offset)))
    assert off == pytest.approx(2e-9)
