import dataclasses
import json
import types
from typing import Annotated, Any, Literal

import pytest

from relpos import sections
from relpos.errors import UserError
from relpos.sections import NOT_EMPTY, Fraction, Options, Positive, Seed, above, name_in, options_of

SCHEMES = types.SimpleNamespace(
    names=lambda: ("none", "rope", "t5"),
    options=lambda name: {
        "none": {},
        "rope": {"base": 10000.0, "fraction": 1.0, "layout": "half"},
        "t5": {"num_buckets": 32, "factors": (1.0,), "free": None},
    }[name],
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    layers: Positive = 2
    window: Any = None
    dropout: Fraction = 0.0

    def __post_init__(self):
        if self.layers == 13:
            raise ValueError("13 layers bring bad luck")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    path: str | None = None
    rate: Annotated[float, above(0)] | None = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    task: str
    seed: Seed = 0
    steps: Annotated[int, sections.at_least(0)] = 100
    tied: bool = True
    kind: Literal["causal", "masked"] = "causal"
    encoding: Annotated[str, name_in(SCHEMES)] = "rope"
    encodings: Options = options_of(SCHEMES)
    lengths: Annotated[tuple[Positive, ...], NOT_EMPTY] = (1, 2)
    names: tuple[str, ...] = ()
    model: Model = Model(layers=3)
    data: Data = Data()


def read(plain):
    return sections.read(Config, {"task": "sums"} | plain)


def changed(key, value):
    *outer, last = key.split(".")
    plain = {last: value}
    for name in reversed(outer):
        plain = {name: plain}
    return read(plain)


def get(config, key):
    return sections.flatten(
        vars(config) | {n: vars(getattr(config, n)) for n in ("model", "data")}
    )[key]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 2**31 - 1), ("steps", 0), ("seed", 2**32 - 1), ("tied", False), ("kind", "masked"),
        ("encoding", "t5"),
        ("lengths", (7,)),
        ("names", ()), ("names", ("a", "b")),
        ("model.window", (1, (2, None))), ("model.window", None),
        ("data.path", None), ("data.path", ""), ("data.path", "\udcff"), ("data.rate", None),
        ("encodings.t5.num_buckets", 3), ("encodings.t5.free", "x"), ("encodings.t5.factors", (2.0, 3.0)),
    ],
)  # fmt: skip
def test_a_value_of_its_kind_is_kept_and_all_others_have_their_defaults(key, value):
    config = changed(key, value)
    assert get(config, key) == value
    assert get(config, "model.layers") == 3  # of the default section, not of its class
    assert sections.read(Config, json.loads(json.dumps(sections.to_plain(config)))) == config


def test_an_int_will_do_for_a_float():
    for key in ("model.dropout", "encodings.rope.base"):
        assert isinstance(get(changed(key, 0), key), float)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("steps", "5", "a whole number from -2147483648 to 2147483647, got '5'"),
        ("steps", 5.0, "a whole number"),
        ("steps", True, "a whole number"),
        ("steps", None, "a whole number"),
        ("steps", -1, "a whole number of at least 0, got -1"),
        ("steps", 2**31, "a whole number"),
        ("seed", 2**32, "a whole number from 0 to 4294967295, got 4294967296"),
        ("data.rate", float("inf"), "a finite number, or none, got inf"),
        ("data.rate", float("nan"), "a finite number"),
        ("data.rate", 10**400, "a finite number"),
        ("data.rate", False, "a finite number"),
        ("data.rate", 0, "a number above 0, or none, got 0"),
        ("model.dropout", 1.0, "a number below 1, got 1.0"),
        ("tied", 1, "true or false, got 1"),
        ("kind", "caussal", "one of causal, masked, got 'caussal': did you mean 'causal'?"),
        ("kind", 3, "one of causal, masked, got 3"),
        ("encoding", "rop", "one of none, rope, t5, got 'rop': did you mean 'rope'?"),
        ("encoding", 3, "text, got 3"),
        ("lengths", 3, "a list, got 3"),
        ("lengths", [], "a list with something in it, got []"),
        ("lengths", [1, "2"], "a list, each a whole number"),
        ("lengths", [1, 0], "a list, each a whole number of at least 1"),
        ("data.path", 3, "text, or none, got 3"),
        ("data.path", "a\0b", "text"),
        ("data.path", "\ud800", "text"),
        ("data", 3, "a section, got 3"),
        ("encodings", [], "a section"),
        ("encodings.rope", 3, "a section, got 3"),
        ("encodings.rope.base", "1", "a finite number"),
        ("encodings.rope.layout", 1, "text"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_of_its_kind_is_named(key, value, wanted):
    with pytest.raises(UserError) as caught:
        changed(key, value)
    assert str(caught.value).startswith(f"config key {key!r} must be {wanted}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("stps", 3, "unknown config key 'stps': did you mean 'steps'?"),
        ("model.layer", 3, "unknown config key 'model.layer': did you mean 'layers'?"),
        ("encodings.rop", {}, "unknown config key 'encodings.rop': did you mean 'rope'?"),
        ("encodings.rope.bse", 1, "unknown config key 'encodings.rope.bse': did you mean 'base'?"),
        ("model.layers", 13, "config section 'model': 13 layers bring bad luck"),
    ],
)
def test_what_a_section_refuses_is_told_with_its_name(key, value, message):
    with pytest.raises(UserError) as caught:
        changed(key, value)
    assert str(caught.value) == message


def test_what_has_no_default_must_be_there():
    with pytest.raises(UserError, match="the config lacks task"):
        sections.read(Config, {"steps": 3})
