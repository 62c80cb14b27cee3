import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.nn import Decoder, DecoderConfig
from tests import oracle

SHORT, LONG = (1.0, 1.1, 1.5, 2.0, 3.0), (1.0, 2.5, 7.0, 20.0, 64.0)


def turn(x, position, layout="half", turned=None, base=10000, slower=None):
    """The paper's rotation, a pair of dimensions at a time."""
    R = len(x) if turned is None else turned
    out = np.array(x, np.float64)
    for m in range(R // 2):
        a, b = (m, m + R // 2) if layout == "half" else (2 * m, 2 * m + 1)
        angle = position * base ** (-2 * m / R) / (1 if slower is None else slower[m])
        out[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        out[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return out


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"base": 500.0, "layout": "interleaved"},
        {"fraction": 0.4},
        {"scaling": "longrope", "trained_length": 30, "target_length": 120,
         "short_factors": SHORT, "long_factors": LONG},
        {"scaling": "longrope", "trained_length": 30, "short_factors": SHORT, "long_factors": LONG},
    )  # fmt: skip

    def logit(self, q, k, i, j, scale, x, row, column):
        chosen = {"base": 10000, "layout": "half", "fraction": 1.0} | self.options
        turned = round(chosen.pop("fraction") * len(q))
        if chosen.pop("scaling", "none") != "none":
            trained, target = chosen.pop("trained_length"), chosen.pop("target_length", 0)
            factors = chosen.pop("short_factors"), chosen.pop("long_factors")
            chosen["slower"] = factors[target > trained]
            if target > trained:  # both queries and keys are multiplied by the square root
                scale *= 1 + np.log(target / trained) / np.log(trained)
        return scale * float(
            turn(q, i, turned=turned, **chosen) @ turn(k, j, turned=turned, **chosen)
        )


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(("fraction", "turned"), [(1.0, 12), (0.5, 6), (1 / 3, 4)])
def test_both_layouts_and_partial_rotation(layout, fraction, turned):
    encoding = encodings.create(
        "rope", num_heads=1, head_dim=12, rngs=nnx.Rngs(0), layout=layout, fraction=fraction
    )
    x = np.random.default_rng(0).normal(size=(5, 12))
    positions = np.array([0, 1, 7, 100, -3])
    expected = [turn(row, i, layout, turned) for row, i in zip(x, positions, strict=True)]
    out = encoding.query(jnp.array(x, jnp.float32), jnp.array(positions), None)
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_an_odd_number_of_turned_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"pairs.*even.*7"):
        encodings.create("rope", num_heads=1, head_dim=7, rngs=nnx.Rngs(0))


STRETCHED = {
    "scaling": "longrope",
    "trained_length": 5,
    "target_length": 40,
    "long_factors": (1.0, 3.0, 9.0, 30.0),
}


@pytest.mark.parametrize("chunks", [(13,), (4, 1, 1, 7), (1,) * 13], ids=str)
def test_a_cache_stays_right_past_the_trained_length(chunks):
    """Keys of the first tokens are turned before anybody knows how long the row becomes."""
    sizes = DecoderConfig(vocab_size=31, num_layers=2, features=16, num_heads=2)
    model = Decoder(sizes, encoding_options={"rope": STRETCHED}, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 31, (2, 13)), jnp.int32)
    grow = nnx.jit(lambda model, x, caches: model(x, caches=caches))
    caches, logits, at = model.init_caches(2, 13), [], 0
    for size in chunks:
        part, caches = grow(model, x[:, at : at + size], caches)
        logits.append(part)
        at += size
    expected = nnx.jit(lambda model: model(x))(model)
    np.testing.assert_allclose(jnp.concatenate(logits, 1), expected, atol=3e-5)
    # What was read up to the trained length is what a longer row begins with.
    np.testing.assert_allclose(expected[:, :5], model(x[:, :5]), atol=3e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"long_factors": (1.0, 2.0, 3.0, 4.0)}, "want rope.scaling=longrope"),
        ({"scaling": "yam"}, "unknown rope.scaling 'yam'"),
        ({"long_factors": (1.0, 2.0)}, "rope.long_factors must be 4 numbers.*got 2"),
        ({"short_factors": (1.0, 2.0, 3.0, 0.0)}, "rope.short_factors must be numbers from 0.001"),
        ({"long_factors": (1.0, 2.0, 3.0, float("nan"))}, "rope.long_factors must be numbers"),
        ({"scaling": "longrope", "trained_length": 1}, "rope.trained_length must be at least 2"),
        ({"long_factors": 2.0}, "rope.long_factors must be a list of numbers"),
    ],
)
def test_a_scaling_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        encodings.create("rope", num_heads=1, head_dim=8, rngs=nnx.Rngs(0), **options)
