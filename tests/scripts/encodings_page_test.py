import json
import re

import pytest

from relpos import encodings, places
from relpos.encodings import Encoding
from tests.scripts.load import script

page = script("encodings_page")

WRITE = "run python scripts/encodings_page.py"


@pytest.fixture(scope="module")
def written():
    return page.PAGE.read_text()


def section(text, name):
    return text.split(f"\n### `{name}`\n")[1].split("\n### ")[0].split("\n## ")[0]


def test_the_page_is_what_the_script_writes(written):
    assert page.page() == written, WRITE


def test_readme_has_the_table_of_now():
    readme = page.README.read_text()
    assert page.with_table(readme) == readme, WRITE


def test_each_scheme_and_each_way_to_place_tokens_has_one_section_and_a_link(written):
    names = [*encodings.names(), *places.names()]
    assert sorted(re.findall(r"^### `(\w+)`$", written, re.MULTILINE)) == sorted(names)
    assert sorted(re.findall(r"^\| \[`(\w+)`\]\(#\1\)", written, re.MULTILINE)) == sorted(names)


def test_its_links_lead_somewhere(written):
    headings = {
        re.sub(r"[^\w -]", "", h).replace(" ", "-").lower()
        for h in re.findall(r"^#+ (.*)$", written, re.MULTILINE)
    }
    links = set(re.findall(r"\]\((?!http)([^)]+)\)", written))
    assert links
    for link in links:
        assert link[1:] in headings if link[0] == "#" else (page.PAGE.parent / link).is_file(), link


@pytest.mark.parametrize("name", encodings.names())
def test_every_docstring_says_what_the_page_needs(name):
    said = page.prose(encodings.scheme(name))
    assert said.purpose
    assert said.equation
    assert said.choose.startswith("Choose it ")
    assert said.another.startswith("Choose another ")
    for told in (said.choose, said.another):
        assert told.endswith(".")
        assert 5 < len(told.split()) < 60  # two or three sentences


class Untold(Encoding):
    """b[d] = 0.

    Nobody 2026, arXiv:2601.00001.

    Choose it for nothing.
    """


class Unsourced(Encoding):
    """b[d] = 0.

    Nobody 2026.

    Choose it for nothing.

    Choose another for anything.
    """


@pytest.mark.parametrize(
    ("kind", "what"), [(Untold, 'begin with "Choose another "'), (Unsourced, "it names no paper")]
)
def test_a_docstring_of_another_form_is_refused_by_name(kind, what):
    with pytest.raises(ValueError, match=what) as refused:
        page.prose(kind)
    assert kind.__name__ in str(refused.value)


def test_indented_paragraphs_belong_to_the_equation_or_are_shown_as_they_stand():
    said = page.prose(encodings.scheme("irpe"))
    assert said.equation.count("\n") > 3
    assert said.source[0].startswith("Wu et al. 2021")
    assert page.paragraph("    a = b *\n    c = d") == "```text\na = b *\nc = d\n```"
    assert page.paragraph("a * b,\n`c*2`, arXiv:1910.10683") == (
        r"a \* b, `c*2`, [arXiv:1910.10683](https://arxiv.org/abs/1910.10683)"
    )


def test_facts_are_those_of_the_class(written):
    # T5: 32 buckets for each of 4 heads, one table for all layers, the last bucket from 128 on.
    t5 = section(written, "t5")
    assert "128 numbers: `table` 4 x 32 (each head's, one for all layers)" in t5
    assert "from 128 on all distances are alike" in t5
    assert "causal only, unless `bidirectional`" in t5
    # PoPE's keys are twice as wide: 2 key heads of 32 more.
    assert "64 numbers more than the 128" in section(written, "pope")
    # FoX keeps a running sum for each token and head, and where each head's sum has come to.
    fox = section(written, "fox")
    assert (
        "4 numbers more than the 128 of keys and values for each token; 4 numbers for each row"
        in fox
    )
    assert "reads the layer's input" in fox
    assert "mixes heads" in section(written, "dape")
    assert "of 3 axes" in section(written, "mrope")
    assert "NaN beyond" in section(written, "learned")
    assert "each key head's" in section(written, "carope")


def test_families_are_those_of_the_slots():
    assert [page.family(name) for name in ("none", "shaw", "t5", "fox", "dape", "rope", "xpos")] == [
        "Baselines", "Vectors", "Biases", "Gates", "Gates", "Rotations", "Rotations",
    ]  # fmt: skip
    assert sorted(n for f in page.ORDER for n in page.of_family(f)) == list(encodings.names())


def test_an_array_of_pairs_is_found(monkeypatch):
    assert not page.has_square("t5")
    blocks = page.relpos.attention

    def dense(*arrays, implementation, **options):
        return blocks(*arrays, implementation="reference", **options)

    monkeypatch.setattr(page.relpos, "attention", dense)
    assert page.has_square("t5")


def test_what_was_measured_is_read_from_the_files(tmp_path):
    rows = [
        {"name": "none", "step": 2.0},
        {"name": "t5", "step": 3.0, "step_spread": 0.2},
        {"name": "rope", "step": 2.0, "step_spread": 1.0},
    ]
    path = tmp_path / "performance.json"
    path.write_text(json.dumps({"results": {"lengths": {"4096": rows}}}))
    measured = page.Measured(path, tmp_path / "absent.json")
    assert measured.told("t5") == "attention, forward and backward 1.50x"
    assert measured.told("rope") == "attention, forward and backward 1.00x ±0.50"
    assert measured.told("fox") == "attention not measured"


def test_experiments_are_read_by_scheme(tmp_path):
    assert page.experiment(tmp_path) == {}
    (tmp_path / "longer" / "results").mkdir(parents=True)
    (tmp_path / "longer" / "sweep.toml").write_text(
        'config = "a"\n[scales.cpu.axes]\nseed = [0, 1]\n'
        '[report]\nx = "seed"\nseries = "encoding"\ntitle = "a"\nbetter = "higher"\n'
        '[report.result]\nname = "longer, %"\nsplit = "longer"\nvalue = "exact"\n'
        '[report.in_distribution]\nname = "test, %"\nsplit = "test"\nvalue = "exact"\nleast = 95.0\n'
    )
    runs = [
        {"point": {"encoding": "t5", "seed": seed}, "state": "finished",
         "records": [{"split": "longer", "exact": exact}, {"split": "test", "exact": 99.0}]}
        for seed, exact in enumerate([40.0, 50.0])
    ]  # fmt: skip
    runs.append({"point": {"encoding": "rope", "seed": 0}, "state": "begun"})
    runs.append(runs[0] | {"point": {"encoding": "rope", "seed": 1}})
    plain = {"scale": "cpu", "config": "a", "set": {}, "runs": runs}
    (tmp_path / "longer" / "results" / "cpu.json").write_text(json.dumps(plain))
    found = page.experiment(tmp_path)
    assert found == {"t5": "longer, longer, %: **45.0** ± 7.1 (99.0)"}
    facts = page.scheme_section("t5", page.Measured(), found)
    assert "by experiment: longer, longer, %: **45.0**" in facts
