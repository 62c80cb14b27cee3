"""What the shipped configs refuse of a model before any data are read."""

import time
from pathlib import Path

import pytest

from relpos import config_files
from relpos.errors import UserError
from relpos.training import model_section, run_config
from relpos.training.task import create_task

NOWHERE = Path("nonesuch")
NO_DATA = {  # which nobody may get to read
    "lm": {"data.source": "files", "data.sources.files.path": "nonesuch"},
    "qa": {"data.source": "squad", "data.sources.squad.train": "nonesuch"},
    "translation": {
        "data.source": "files",
        "data.sources.files.source": "nonesuch",
        "data.sources.files.target": "nonesuch",
    },
    "algorithmic": {},
}


def refused(name, **overrides):
    """Returns how a config is refused, within seconds."""
    pairs = [(key, str(value)) for key, value in (NO_DATA[name] | overrides).items()]
    began = time.thread_time()
    with pytest.raises(UserError) as caught:
        create_task(run_config.load(config_files.shipped()[name], pairs), NOWHERE)
    assert time.thread_time() - began < 5
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", NO_DATA)
@pytest.mark.parametrize(
    ("key", "value", "encoding"),
    [
        ("model.mlp_features", 10**9, "rope"),
        ("model.num_layers", 10**6, "rope"),
        ("encodings.shaw.k", 10**9, "shaw"),
        ("encodings.learned.max_length", 10**9, "learned"),
    ],
)
def test_parameters_beyond_memory_are_refused_from_their_shapes(name, key, value, encoding):
    message = refused(name, **{key: value, "encoding": encoding})
    assert "this needs at least" in message
    assert f"make {key}={value}" in message


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("lm", {"objective": "masked"}), ("qa", {}), ("translation", {}), ("algorithmic", {"data.source": "reverse"})],
)  # fmt: skip
def test_a_scheme_for_the_past_alone_is_refused_by_the_key_that_names_it(name, overrides):
    message = refused(name, encoding="rope,fox", **overrides, **{"model.num_layers": 2})
    assert message.startswith("config key 'encoding': fox is causal")
    assert ("decoder_encoding" in message) == (name == "translation")


@pytest.mark.parametrize("scheme", ["fox", "sinusoidal"])
def test_what_has_no_meaning_in_cross_attention_is_refused_by_its_key(scheme):
    message = refused("translation", cross_encoding=scheme)
    assert message.startswith(f"config key 'cross_encoding': {scheme} reads the")


def test_an_unknown_scheme_is_told_with_its_key():
    assert refused("translation", decoder_encoding="rop").startswith(
        "config key 'decoder_encoding': unknown encoding 'rop': did you mean 'rope'?"
    )


def test_windows_to_read_beyond_memory_are_refused():
    message = refused("qa", eval_multiples=10**9)
    assert "1 x 128000000000 tokens would be read together" in message


@pytest.mark.parametrize(
    "overrides",
    [{"search.max_length": 10**9}, {"search.beams": 10**7}, {"sequence_length": 2**31 - 1}],
)
def test_translations_whose_cache_is_beyond_memory_are_refused(overrides):
    message = refused("translation", **overrides)
    ((key, value),) = overrides.items()
    assert f"{key}={value}" in message
    assert "cache" in message or "int32" in message


@pytest.mark.parametrize(
    ("name", "key", "value", "most"),
    [
        ("translation", "data.sources.cldr.lengths", "1,100000", "from 1 to 32"),
        ("qa", "data.sources.stories.distance", "2,100000", "at most 64"),
        ("algorithmic", "data.sources.copy_cmc.letters", 10**9, "at most 10000"),
    ],
)
def test_data_that_take_minutes_to_make_are_refused(name, key, value, most):
    _, _, source, option = key.split(".")
    config = run_config.load(
        config_files.shipped()[name], [("data.source", source), (key, str(value))]
    )
    began = time.thread_time()
    with pytest.raises(UserError, match=option) as caught:
        create_task(config, NOWHERE).describe()
    assert time.thread_time() - began < 5
    assert most in str(caught.value)
    assert source in str(caught.value)


@pytest.mark.parametrize(
    ("text", "windows"),
    [("64", [(64, 64)]), ("none", [(None, None)]), ("64:16", [(64, 16)]),
     ("none,64*3", [(None, None), *3 * [(64, 64)]])],
)  # fmt: skip
def test_windows_scales_and_caps_of_layers_are_given_by_command(text, windows):
    pairs = [("model.window", text), ("model.scale", "1,none"), ("model.softcap", "50")]
    config = run_config.load(
        config_files.shipped()["lm"], [*pairs, ("model.num_layers", str(2 * len(windows)))]
    )
    sizes = model_section.layers(config, config.encoding, causal=True)
    turns = sizes.pattern
    assert [turn.window for turn in turns] == windows * (len(turns) // len(windows))
    assert [turn.scale for turn in turns[:2]] == [1.0, None]
    assert {turn.softcap for turn in turns} == {50.0}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("window", "a:4", "must be an integer"), ("scale", "x", "finite"), ("softcap", "0", "positive"),
     ("window", "none,4,4", "must be a multiple of 3")],
)  # fmt: skip
def test_what_no_layer_can_have_is_refused(key, value, message):
    found = refused("lm", **{f"model.{key}": value})
    assert found.startswith("config section 'model': ")
    assert message in found


@pytest.mark.parametrize("name", NO_DATA)
def test_an_unknown_type_is_told_before_its_size_is_asked_for(name):
    assert "section 'model': unknown dtype '': known: float32" in refused(
        name, **{"model.dtype": ""}
    )


def test_a_length_is_refused_by_the_scheme_that_has_too_few_positions():
    few = {"encodings.learned.max_length": 16, "sequence_length": 64}
    of_decoder = refused("translation", encoding="rope", decoder_encoding="learned", **few)
    assert "more than the 16 positions of learned" in of_decoder
    assert "positions of learned" in refused("translation", encoding="learned", **few)
    shortest = refused("algorithmic", **{"data.shortest": 50, "sequence_length": 20})
    assert "'sequence_length' is 20, less than data.shortest, 50" in shortest
