import json

from tests.scripts.load import script

tables = script("bench_train_tables")


def row(name, rate, seconds=0.5):
    return {
        "name": name, "tokens_per_second": rate, "seconds": seconds, "spread": 0.02,
        "first_seconds": 1.25, "bytes": 7_000_000,
    }  # fmt: skip


STEP = [row("relpos none", 200.0), row("relpos t5", 160.0), row("slow", 50.0), row("fast", 100.0)]
RECORD = {
    "machine": "two cores",
    "commit": "abc",
    "tables": {"step": {"4 x 256": STEP}, "generation": {"16": STEP[1:]}, "depth": {"w": STEP[:1]}},
}


def test_ratios_are_to_the_fastest_peer_and_to_no_positions():
    text = tables.pages(RECORD)
    assert "| relpos t5 | 1.60x | 1.25x | 160 | 500 ±20 | 1.2 | 7 |" in text
    assert "| fast | 1.00x |  | 100 |" in text
    of_generation = text.split("a generation, batch 16")[1]
    assert "of none" not in of_generation.split("\n\n")[0]
    assert "| slow | 0.50x | 50 |" in of_generation


def test_the_picture_has_a_bar_for_each(tmp_path, capsys):
    record = tmp_path / "steps.json"
    record.write_text(json.dumps(RECORD))
    assert tables.main([str(record), "--picture", str(tmp_path / "steps.png")]) == 0
    assert (tmp_path / "steps.png").stat().st_size > 5000
    assert "two cores, commit abc" in capsys.readouterr().out
    figure = tables.draw(RECORD)
    drawn = [axes for part in figure.subfigs for axes in part.axes]
    assert [len(axes.patches) for axes in drawn] == [4, 3]
    assert [bar.get_width() for bar in drawn[0].patches] == [2.0, 1.6, 0.5, 1.0]
