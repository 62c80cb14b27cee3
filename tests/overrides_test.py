import pytest

from relpos import overrides, sections
from relpos.errors import UserError
from tests.sections_test import SCHEMES, Config, get


def override(*texts):
    pairs = [tuple(text.split("=", 1)) for text in texts]
    return sections.read(
        Config, overrides.override(Config, {"task": "sums", "model": {"layers": 5}}, pairs)
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("steps=7", 7),
        ("steps=1e3", 1000),
        ("data.rate=1", 1.0),
        ("data.rate=1e-4", 1e-4),
        ("data.rate=none", None),
        ("data.path=3", "3"),
        ("data.path=a=b", "a=b"),
        ("data.path=none", None),
        ("data.path=", ""),
        ("encoding=none", "none"),
        ("tied=false", False),
        ("tied=True", True),
        ("model.window=none", None),
        ("model.window=3", 3),
        ("model.window=3.5", 3.5),
        ("model.window=true", True),
        ("model.window=4:2*3", "4:2*3"),
        ("model.window=1,2", (1, 2)),
        ("lengths=3", (3,)),
        ("lengths=3,4,5", (3, 4, 5)),
        ("lengths=(3, 4)", (3, 4)),
        ("names=", ()),
        ("names=rope, t5", ("rope", "t5")),
        ("names='rope', \"t5\"", ("rope", "t5")),
        ("names=(rope, t5)", ("rope", "t5")),
        ("names=def main(", ("def main(",)),
        ("names=['def f(a, b):', 'The ', '\"\"\"Return']", ("def f(a, b):", "The ", '"""Return')),
        ("model.window={[]: 1}", "{[]: 1}"),
        ("encodings.rope.base=500000", 500000.0),
        ("encodings.t5.factors=2,3", (2.0, 3.0)),
        ("encodings.t5.free=2", 2),
    ],
)
def test_a_text_is_read_as_its_field_is_declared(text, value):
    config = override(text)
    found = get(config, text.partition("=")[0])
    assert found == value
    assert type(found) is type(value)
    assert config.model.layers == 5


def test_the_last_of_two_texts_wins_and_the_others_stay():
    config = override("steps=1", "steps=2", "encodings.rope.base=3")
    assert config.steps == 2
    assert config.encodings["rope"] == {"base": 3.0, "fraction": 1.0, "layout": "half"}
    assert config.encodings["t5"] == SCHEMES.options("t5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stps=3", "unknown config key 'stps': did you mean 'steps'?"),
        ("encodings.rope.bse=3", "unknown config key 'encodings.rope.bse': did you mean 'encodings.rope.base'?"),
        ("encodings.rpe.base=3", "did you mean 'encodings.rope.base'?"),
        ("base=3", "did you mean 'encodings.rope.base'?"),
        ("qqqqqq=3", "the sections and keys are task, seed, steps, tied, kind, encoding, encodings"),
        ("encodings.rope=3", "is a section, set one of its keys: encodings.rope.base, enc"),
        ("steps=abc", "config key 'steps' must be a whole number, got 'abc'"),
        ("steps=1.5", "a whole number"),
        ("steps=", "a whole number"),
        ("data.rate=nan", "config key 'data.rate' must be a number, or none, got 'nan'"),
        ("tied=maybe", "true or false"),
        ("lengths=a,b", "config key 'lengths' must be a whole number, got 'a'"),
    ],
)  # fmt: skip
def test_a_mistaken_text_is_named_with_the_nearest_right_key(text, message):
    with pytest.raises(UserError) as caught:
        override(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_inside_of_what_is_no_section_is_refused():
    with pytest.raises(UserError, match="config key 'data' must be a section, got 3"):
        overrides.override(Config, {"data": 3}, [("data.path", "x")])


def test_nothing_given_is_changed():
    plain = {"task": "sums", "model": {"layers": 5}}
    overrides.override(Config, plain, [("model.layers", "7")])
    assert plain == {"task": "sums", "model": {"layers": 5}}


@pytest.mark.parametrize(
    "value",
    [(), ("rope", "t5"), ("def main(",), ("a, b",), ("The ",), ("",), ("(a", "b)"), ("'a'",), ("[x]",), ('"""R',)],
)  # fmt: skip
def test_a_list_that_is_shown_is_read_as_it_was(value):
    assert override(f"names={sections.show(value)}").names == value
