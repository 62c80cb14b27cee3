"""What `relpos.encodings.create` refuses, whoever calls it."""

import pytest
from flax import nnx

from relpos import encodings


def create(name, **options):
    sizes = {"num_heads": 2, "head_dim": 4} | {
        key: options.pop(key) for key in ("num_heads", "head_dim") if key in options
    }
    return encodings.create(name, rngs=nnx.Rngs(0), **sizes, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("t5", {"max_distance": 10**12}, r"t5\.max_distance must fit into int32.*1000000000000"),
        ("t5", {"num_buckets": 10**6}, r"t5\.num_buckets must be from 2 to 65536, got 1000000"),
        ("t5", {"num_buckets": 32.0}, r"t5\.num_buckets must be a whole number, got 32\.0"),
        ("t5", {"bidirectional": 1}, r"t5\.bidirectional must be True or False, got 1"),
        ("transformer_xl", {"clamp": 10**12}, r"transformer_xl\.clamp must fit into int32"),
        ("transformer_xl", {"clamp": -1}, r"transformer_xl\.clamp, 0 for none, must be at least 0"),
        ("transformer_xl", {"base": 0.0}, r"transformer_xl\.base must be at least 1, got 0\.0"),
        ("rope", {"base": 1e400}, r"rope\.base must be finite in float32, got inf"),
        ("rope", {"base": 1e39}, r"rope\.base must be finite in float32, got 1e\+39"),
        ("rope", {"base": float("nan")}, r"rope\.base must be finite in float32, got nan"),
        ("rope", {"base": 1e-40}, r"rope\.base must be at least 1, got 1e-40"),
        ("rope", {"base": "1"}, r"rope\.base must be a number, got '1'"),
        ("sinusoidal", {"base": -3}, r"sinusoidal\.base must be at least 1, got -3"),
        ("fire", {"hidden": 10**6}, r"fire\.hidden must be from 1 to 256, got 1000000"),
        ("fire", {"hidden": 0}, r"fire\.hidden must be from 1 to 256, got 0"),
        ("fire", {"epsilon": 1e-40}, r"fire\.epsilon must be from 1e-15 to 1e\+15, got 1e-40"),
        ("fire", {"initial_c": 1e38}, r"fire\.initial_c must be from 1e-15 to 1e\+15, got 1e\+38"),
        ("shaw", {"k": 2**30}, r"shaw\.k.* must be from 0 to 1073741823, got 1073741824"),
        ("shaw", {"k": -1}, r"shaw\.k.* must be from 0"),
        ("learned", {"max_length": 0}, r"learned\.max_length must be at least 1, got 0"),
        ("learned", {"stddev": -1}, r"learned\.stddev must be at least 0, got -1"),
        ("alibi", {"num_heads": 10**9}, r"num_heads must be from 1 to 65536, got 1000000000"),
        ("none", {"head_dim": 0}, r"head_dim must be from 1 to 65536, got 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_its_name_and_limits(name, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        create(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("t5", {"max_distance": 2**31 - 1}),
        ("transformer_xl", {"clamp": 2**31 - 1}),
        ("rope", {"base": 1}),
        ("fire", {"initial_c": 1e-15}),
    ],
)
def test_the_limits_themselves_are_allowed(name, options):
    create(name, **options)
