import dataclasses
import json

import pytest

from tests.scripts.load import script

tables = script("bench_tables")
bench = script("bench_attention")


def test_lengths_are_measured_written_and_drawn(tmp_path, capsys):
    out, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    arguments = "--parts lengths --encodings t5 --lengths 16,32 --peers jax --seconds 0.01"
    assert bench.main([*arguments.split(), "--json", str(out), "--picture", str(picture)]) == 0
    record = json.loads(out.read_text())
    assert all(rate > 0 for rate in record["matmul_flops"].values())
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
    assert tables.main([str(out)]) == 0
    page = capsys.readouterr().out
    assert "## T=16" in page
    assert f"| t5 | {t5['forward'] / none['forward']:.2f}x |" in page


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
    changes = {size: 16 for size in ("S", "packed") if size in bench.KINDS[kind]}
    small = bench.Call(T=24, S=24, N=4, K=4, H=4)
    call = dataclasses.replace(small, **(bench.KINDS[kind] | changes))
    assert bench.ours("none", call).step() is not None


def row(name, step, forward=1.0, **more):
    return {
        "name": name, "forward": forward, "forward_spread": 0.1, "step": step, "step_spread": 0.1,
        "compile_seconds": 1.0, "temporary_bytes": 10.0,
    } | more  # fmt: skip


def test_goals_are_held_against_what_was_measured():
    at_4096 = [row("none", 2.0, 1.5), row("shaw", 2.7), row("t5", 2.1), row("rope", 2.3)]
    at_4096.append(row(tables.SDPA, 2.5, 1.0))
    memory = {
        "8192": [row("none", None), row("fox", None, temporary_bytes=12)],
        "16384": [row("none", None, temporary_bytes=20), row("fox", None, temporary_bytes=30)],
    }
    short = {"256": [row("t5, dense", 2.0), row("t5, blockwise", 2.5)]}
    found = tables.goal_table({"lengths": {"4096": at_4096}, "memory": memory, "short": short})
    by_what = {row[0]: row[1:] for row in found}
    assert by_what["`none` no positions against PyTorch SDPA"] == ["0.85x", "0.80x", "met"]
    assert by_what["`none` the same, forward"] == ["0.75x", "1.50x", "missed by `none`"]
    assert by_what["`shaw` against no positions"] == ["1.3x", "1.35x", "missed by `shaw`"]
    among = by_what["`rope`, `alibi`, `kerple`, `t5` against no positions"]
    assert among == ["1.1x", "1.15x, 1.05x", "missed by `rope`"]
    assert by_what["temporaries at T=16384 against T=8192"][1:] == [
        "at most 2.50x (`fox`)",
        "missed by `fox`",
    ]
    assert by_what["the same, against no positions"][1] == "at most 1.50x (`fox`)"
    assert by_what["seconds to compile at T=16384"][1:] == ["at most 1.00 s (`none`)", "met"]
    assert found[-1][2:] == ["at most 1.25x (`t5`)", "missed by `t5`"]


def test_kinds_of_calls_are_columns():
    causal = [row("none", 0.2), row("t5", 0.3), row("fox", 0.4)]
    found = tables.kinds_table({"causal": causal, "cross": [row("none", 0.1), row("t5", 0.1)]})
    assert found == [
        ["", "causal", "cross"],
        ["none", "200 ms", "100 ms"],
        ["t5", "1.50x", "1.00x"],
        ["fox", "2.00x", ""],
    ]
