import dataclasses
import json

import pytest

from tests.scripts.load import script

script("bench_peers")
bench = script("bench_attention")


def test_lengths_are_measured_written_and_drawn(tmp_path, capsys):
    out, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = "--parts lengths --encodings t5 --lengths 16,32 --peers jax --seconds 0.01"
    assert bench.main([*arguments.split(), "--json", str(out), "--picture", str(picture)]) == 0
    record = json.loads(out.read_text())
    assert record["matmul_flops"] > 0
    assert record["where"]["commit"]
    for T in ("16", "32"):
        none, t5, peer = record["results"]["lengths"][T]
        assert [none["name"], t5["name"]] == ["none", "t5"]
        for row in (none, t5, peer):
            assert row["forward"] > 0
            assert row["step"] > 0
        assert t5["temporary_bytes"] > 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "1.00x" in capsys.readouterr().out


def test_a_peer_that_is_not_installed_is_left_out_with_a_line(monkeypatch, capsys):
    def missing(T, N, H):
        raise ImportError("No module named 'other'")

    monkeypatch.setitem(bench.bench_peers.PEERS, "jax", missing)
    arguments = "--parts lengths --encodings none --lengths 16 --peers jax --seconds 0.01"
    assert bench.main(arguments.split()) == 0
    assert "jax is left out: No module named 'other'" in capsys.readouterr().out


def test_a_misspelt_name_is_answered_with_the_known_ones(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--encodings", "t6"])
    assert "--encodings: unknown t6; known: alibi," in capsys.readouterr().err


@pytest.mark.parametrize("kind", bench.KINDS)
def test_every_kind_of_call_can_be_made(kind):
    changes = {"S": 16} if "S" in bench.KINDS[kind] else {}
    small = bench.Shape(T=24, S=24, N=4, K=4, H=4)
    shape = dataclasses.replace(small, **(bench.KINDS[kind] | changes))
    assert bench.ours("none", shape).step() is not None
