import pytest

from relpos.encodings.composed.expressions import Kind, Scheme, counts, layers, leaves, parse


def test_layers_take_turns():
    assert layers("rope*3, none") == ("rope", "rope", "rope", "none")
    assert layers(("rope", "t5*2")) == ("rope", "t5", "t5")
    assert layers("rope(base=5.0)*2,fox:2/rope+t5") == (
        "rope(base=5.0)", "rope(base=5.0)", "fox:2/rope+t5",
    )  # fmt: skip


def test_sums_heads_and_options_are_read():
    rope = Scheme("rope", (("base", 500000.0), ("layout", "half")))
    assert parse("rope(base=5e5, layout=half) + t5 : 4 / alibi(learned=True):2") == (
        Kind((rope, Scheme("t5")), 4),
        Kind((Scheme("alibi", (("learned", True),)),), 2),
    )
    assert leaves(("rope+t5", "rope:2/fox")) == ("rope", "t5", "fox")


def test_heads_without_a_number_have_equal_shares():
    assert counts(parse("rope/alibi"), 8) == (4, 4)
    assert counts(parse("rope:2/alibi/fox"), 8) == (2, 3, 3)
    for text, heads in (("rope:2/alibi:2", 8), ("rope/alibi", 7), ("rope:8/alibi", 8)):
        with pytest.raises(ValueError, match="heads together"):
            counts(parse(text), heads)


@pytest.mark.parametrize(
    "text",
    ["", "rope+", "rope,,t5", "rope(base)", "rope(base=)", "rope(base=1", "ro pe", "rope:0", "/rope",
     "rope*0", "rope(base=__import__('os'))", "rope:-2", "rope)", "rope:2.5", "3"],
)  # fmt: skip
def test_what_cannot_be_read_is_named(text):
    with pytest.raises(ValueError, match=r"encoding|a number of layers"):
        layers(text)
