import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.nn import Decoder, TransformerConfig
from tests import oracle

SHORT, LONG = (1.0, 1.1, 1.5, 2.0, 3.0), (1.0, 2.5, 7.0, 20.0, 64.0)


def turn(x, position, layout="half", turned=None, theta=None, part="first"):
    """The paper's rotation, a pair of dimensions at a time."""
    R = len(x) if turned is None else turned
    theta = [10000 ** (-2 * m / R) for m in range(R // 2)] if theta is None else theta
    first = len(x) - R if part == "last" else 0
    out = np.array(x, np.float64)
    for m in range(R // 2):
        a, b = (m, m + R // 2) if layout == "half" else (2 * m, 2 * m + 1)
        a, b = first + a, first + b
        out[a] = x[a] * np.cos(position * theta[m]) - x[b] * np.sin(position * theta[m])
        out[b] = x[b] * np.cos(position * theta[m]) + x[a] * np.sin(position * theta[m])
    return out


def speeds(R, o):
    """Each paper's theta_m, and what turned queries and keys are multiplied by."""
    base, s, scaling = o.get("base", 10000.0), o.get("factor", 1.0), o.get("scaling", "none")
    L0, L = o.get("trained_length", 4096), o.get("target_length", 0)
    theta, times, M = [base ** (-2 * m / R) for m in range(R // 2)], 1.0, R // 2
    if scaling == "linear":
        theta = [t / s for t in theta]
    elif scaling in ("ntk", "dynamic"):
        s = s if scaling == "ntk" else s * L / L0 - (s - 1)
        theta = [(base * s ** (R / (R - 2))) ** (-2 * m / R) for m in range(M)]
    elif scaling == "yarn":
        # The number of the pair that turns r times in L0.
        number = lambda r: R * np.log(L0 / (2 * np.pi * r)) / (2 * np.log(base))  # noqa: E731
        low, high = number(o.get("beta_fast", 32)), number(o.get("beta_slow", 1))
        if o.get("truncate", True):
            low, high = np.floor(low), np.ceil(high)
        low, high = max(low, 0), min(high, R - 1)
        for m in range(M):
            ramp = min(max((m - low) / (high - low), 0), 1)
            theta[m] = (1 - ramp) * theta[m] + ramp * theta[m] / s
        times = o.get("attention_factor") or 0.1 * np.log(s) + 1
    elif scaling == "llama3":
        shortest, longest = L0 / o.get("beta_fast", 4), L0 / o.get("beta_slow", 1)
        for m, t in enumerate(theta):
            wave = 2 * np.pi / t
            if wave > longest:
                theta[m] = t / s
            elif wave >= shortest:
                smooth = (L0 / wave - L0 / longest) / (L0 / shortest - L0 / longest)
                theta[m] = (1 - smooth) * t / s + smooth * t
    elif scaling == "longrope":
        factors = o["long_factors" if L > L0 else "short_factors"]
        theta = [t / factor for t, factor in zip(theta, factors, strict=True)]
        times = np.sqrt(1 + np.log(L / L0) / np.log(L0)) if L > L0 else 1.0
    elif scaling == "p_rope":
        theta = [t / s if m < int(o["kept"] * R / 2) else 0.0 for m, t in enumerate(theta)]
    return theta, times


class Oracle(oracle.Oracle):
    VARIANTS = (
        {"base": 500.0, "layout": "interleaved"},
        {"fraction": 0.4, "scaling": "linear", "factor": 3.0},
        {"scaling": "longrope", "trained_length": 30, "target_length": 120,
         "short_factors": SHORT, "long_factors": LONG},
        {"scaling": "longrope", "trained_length": 30, "short_factors": SHORT, "long_factors": LONG},
        {"scaling": "yarn", "trained_length": 60, "factor": 4.0, "fraction": 0.8, "part": "last",
         "layout": "interleaved", "values": "relative"},
        {"scaling": "p_rope", "kept": 0.6, "factor": 2.0, "values": "turned"},
    )  # fmt: skip

    def turned(self, x, position, times=None):
        """The vector, some dimensions turned and multiplied by what queries and keys are."""
        R, last = round(self.options.get("fraction", 1.0) * len(x)), "part" in self.options
        theta, of_queries = speeds(R, self.options)
        where = {key: self.options[key] for key in ("layout", "part") if key in self.options}
        out = turn(x, position, turned=R, theta=theta, **where)
        out[len(x) - R if last else 0 :][:R] *= of_queries if times is None else times
        return out

    def logit(self, q, k, i, j, scale, x, row, column):
        return scale * float(self.turned(q, i) @ self.turned(k, j))

    def value(self, v, i, j):
        kind = self.options.get("values", "still")
        return v if kind == "still" else self.turned(v, j - i if kind == "relative" else j, 1.0)


def make(head_dim=12, **options):
    return encodings.create("rope", num_heads=1, head_dim=head_dim, rngs=nnx.Rngs(0), **options)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(
    ("fraction", "turned", "part"),
    [(1.0, 12, "first"), (0.5, 6, "first"), (1 / 3, 4, "first"), (1 / 3, 4, "last")],
)
def test_both_layouts_and_partial_rotation(layout, fraction, turned, part):
    encoding = make(layout=layout, fraction=fraction, part=part)
    x = np.random.default_rng(0).normal(size=(5, 12))
    positions = np.array([0, 1, 7, 100, -3])
    expected = [
        turn(row, i, layout, turned, part=part) for row, i in zip(x, positions, strict=True)
    ]
    out = encoding.query(jnp.array(x, jnp.float32), jnp.array(positions), None)
    np.testing.assert_allclose(out, expected, atol=2e-5)


SCALED = {
    "linear": {"factor": 3.0},
    "ntk": {"factor": 3.0},
    "dynamic": {"factor": 2.0, "trained_length": 50, "target_length": 400},
    "dynamic, of the paper": {"trained_length": 50, "target_length": 400},
    "yarn": {"factor": 16.0, "trained_length": 500, "base": 3000.0},
    "yarn, whose slowest pair turns often": {"factor": 16.0, "trained_length": 20000, "base": 3000.0},
    "yarn, not truncated": {
        "factor": 16.0, "trained_length": 500, "truncate": False, "beta_fast": 10.0,
        "beta_slow": 2.0, "attention_factor": 1.5,
    },
    "llama3": {"factor": 8.0, "trained_length": 200},
    "llama3, other ends": {
        "factor": 8.0, "trained_length": 200, "beta_fast": 20.0, "beta_slow": 0.1,
    },
    "p_rope": {"kept": 0.5, "factor": 2.0},
    "p_rope, of no whole number": {"kept": 0.65},
}  # fmt: skip


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize("kind", SCALED)
def test_scalings_turn_as_their_equations_say(kind, layout):
    options = SCALED[kind] | {"scaling": kind.split(",")[0], "layout": layout}
    x = np.random.default_rng(0).normal(size=(3, 12))
    places = np.array([1, 9, 40])
    theta, times = speeds(12, options)
    expected = [times * turn(row, i, layout, 12, theta) for row, i in zip(x, places, strict=True)]
    for slot in (make(**options).query, make(**options).key):
        out = slot(jnp.array(x, jnp.float32), jnp.array(places), None)
        np.testing.assert_allclose(out, expected, atol=2e-5)


NUMBERS = {
    "Llama 3.1": (
        128,
        {"scaling": "llama3", "base": 500000.0, "factor": 8.0, "trained_length": 8192},
        {0: 1.0, 1: 0.8146172165870667, 16: 0.03760603070259094, 28: 0.0032114461064338684,
         29: 0.0021665706299245358, 30: 0.0013718936825171113, 33: 0.0003126936499029398,
         35: 9.556212171446532e-05, 36: 7.784655463183299e-05, 63: 3.068925877869333e-07},
        1.0,
    ),
    "Qwen3 with YaRN": (
        128,
        {"scaling": "yarn", "base": 1e6, "factor": 4.0, "trained_length": 32768},
        {0: 1.0, 23: 0.006978305988013744, 24: 0.005375321488827467, 28: 0.0018482765881344676,
         32: 0.0006029411451891065, 36: 0.0001798411540221423, 39: 6.490394298452884e-05,
         40: 4.4456985051510856e-05, 41: 3.582531644497067e-05, 63: 3.102344408034696e-07},
        1.138629436111989,
    ),
    "gpt-oss": (
        64,
        {"scaling": "yarn", "base": 150000.0, "factor": 32.0, "trained_length": 4096,
         "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False},
        {0: 1.0, 8: 0.05081327259540558, 9: 0.031705696135759354, 12: 0.006794959306716919,
         16: 0.0004564839182421565, 17: 0.00012931869423482567, 18: 3.830881178146228e-05,
         31: 3.023511396804679e-07},
        1.3465735902799727,
    ),
    "DeepSeek-V3": (
        192,
        {"scaling": "yarn", "factor": 40.0, "trained_length": 4096, "attention_factor": 1.0,
         "fraction": 1 / 3, "part": "last", "layout": "interleaved"},
        {0: 1.0, 10: 0.05623412877321243, 11: 0.039006926119327545, 14: 0.012447956018149853,
         18: 0.002249365206807852, 22: 0.00017782794020604342, 23: 3.333803397254087e-05,
         31: 3.3338035336782923e-06},
        1.0,
    ),
    "Gemma 4": (
        512,
        {"scaling": "p_rope", "base": 1e6, "kept": 0.25},
        {0: 1.0, 8: 0.6493816375732422, 32: 0.17782793939113617, 63: 0.03337624669075012,
         64: 0.0, 255: 0.0},
        1.0,
    ),
    "Gemma 3": (
        256,
        {"scaling": "linear", "base": 1e6, "factor": 8.0},
        {0: 0.125, 8: 0.05271206423640251, 64: 0.0001250000059371814, 127: 1.3924673680776323e-07},
        1.0,
    ),
    "dynamic": (
        128,
        {"scaling": "dynamic", "factor": 2.0, "trained_length": 2048, "target_length": 8192},
        {0: 1.0, 1: 0.8396257758140564, 8: 0.246993750333786, 32: 0.0037217214703559875,
         63: 1.649688601901289e-05},
        1.0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("model", NUMBERS)
def test_released_models_turn_as_transformers_has_them(model):
    """Of ROPE_INIT_FUNCTIONS in transformers 5.24.0, for some pairs, and what turned vectors are multiplied by."""
    head_dim, options, theta, times = NUMBERS[model]
    encoding = make(head_dim, **options)
    M = encoding.turned // 2
    found = encoding.base ** (-np.arange(M) / M) / np.array(encoding.scaled.slower)
    np.testing.assert_allclose([found[m] for m in theta], list(theta.values()), rtol=2e-6)
    assert encoding.scaled.attention == pytest.approx(times, rel=1e-12)


def test_an_odd_number_of_turned_dimensions_is_refused():
    with pytest.raises(ValueError, match=r"pairs.*even.*7"):
        make(7)


def test_values_turn_with_their_keys_or_by_what_lies_between():
    """DeepSeek's shared keys and values: the output is turned back by the query's place."""
    random = np.random.default_rng(0)
    q, k, v = (jnp.asarray(random.normal(size=(1, 5, 1, 8)), jnp.float32) for _ in range(3))
    at = jnp.arange(5)

    def out(values, at):
        encoding = make(8, values=values, fraction=0.5, part="last", layout="interleaved")
        return np.asarray(attention(q, k, v, encoding=encoding, q_positions=at, k_positions=at))

    still, turned, relative = (out(kind, at) for kind in ("still", "turned", "relative"))
    np.testing.assert_array_equal(turned[..., :4], still[..., :4])
    back = [turn(turned[0, i, 0], -i, "interleaved", 4, part="last") for i in range(5)]
    np.testing.assert_allclose(relative[0, :, 0], back, atol=1e-5)
    np.testing.assert_allclose(out("relative", at + 50), relative, atol=1e-5)
    assert np.abs(out("turned", at + 50) - turned).max() > 0.1
    assert make(8, values="relative").shift_invariant
    assert not make(8, values="turned").shift_invariant
    # What does not turn values costs nothing there.
    assert {"value", "finish"}.isdisjoint(make(8).overridden)


@pytest.mark.parametrize("target", [0, 29, 30])
def test_up_to_the_trained_length_the_short_factors_serve(target):
    factors = {"short_factors": SHORT, "long_factors": LONG}
    rope = make(10, scaling="longrope", trained_length=30, target_length=target, **factors)
    assert rope.scaled == (SHORT, 1.0)


STRETCHED = {
    "longrope": {"trained_length": 5, "target_length": 40, "long_factors": (1.0, 3.0, 9.0, 30.0)},
    "dynamic": {"trained_length": 5, "target_length": 40, "values": "relative"},
}


@pytest.mark.parametrize(
    ("scaling", "chunks"),
    [
        ("longrope", (13,)), ("longrope", (4, 1, 1, 7)), ("longrope", (1,) * 13),
        ("dynamic", (4, 1, 1, 7)),
    ],
    ids=str,
)  # fmt: skip
def test_a_cache_stays_right_past_the_trained_length(scaling, chunks):
    """Keys of the first tokens are turned before anybody knows how long the row becomes."""
    sizes = TransformerConfig(num_layers=2, features=16, num_heads=2)
    options = {"rope": STRETCHED[scaling] | {"scaling": scaling}}
    model = Decoder(sizes, vocab_size=31, encoding_options=options, rngs=nnx.Rngs(0))
    x = jnp.asarray(np.random.default_rng(0).integers(0, 31, (2, 13)), jnp.int32)
    grow = nnx.jit(lambda model, x, caches: model.decode(x, caches))
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
        ({"long_factors": (1.0, 2.0, 3.0, 4.0)}, "rope.long_factors needs rope.scaling=longrope"),
        ({"factor": 2.0}, "rope.factor needs rope.scaling=linear or ntk or .*, but .* is none"),
        ({"scaling": "linear", "factor": 2.0, "beta_fast": 9.0}, "beta_fast needs rope.scaling"),
        ({"scaling": "yam"}, "unknown rope.scaling 'yam'"),
        ({"part": "middle"}, "unknown rope.part 'middle': known: first, last"),
        ({"values": "back"}, "unknown rope.values 'back'"),
        ({"long_factors": (1.0, 2.0)}, "rope.long_factors must be empty or 4 numbers.*got 2"),
        ({"short_factors": (1.0, 2.0, 3.0, 0.0)}, "rope.short_factors must be numbers from 0.001"),
        ({"long_factors": (1.0, 2.0, 3.0, float("nan"))}, "rope.long_factors must be numbers"),
        ({"scaling": "longrope", "trained_length": 1}, "rope.trained_length must be at least 2"),
        ({"long_factors": (1.0, 2.0, 3.0, None)}, "rope.long_factors must be numbers.*None"),
        ({"short_factors": (1.0, 2.0, 3.0, [4.0])}, "rope.short_factors must be numbers"),
        ({"scaling": "longrope", "target_length": -1}, "rope.target_length must be at least 0"),
        (
            {"scaling": "longrope", "long_factors": (1.0,) * 4},
            "longrope needs rope.short_factors, as rope.target_length=0 is not above .*4096",
        ),
        (
            {"scaling": "longrope", "target_length": 9999, "short_factors": (1.0,) * 4},
            "longrope needs rope.long_factors, as rope.target_length=9999 is above",
        ),
        ({"scaling": "yarn", "factor": 2.0, "attention_factor": 1e38}, "must be from 0 to 1000"),
        ({"long_factors": 2.0}, "rope.long_factors must be a list"),
        ({"scaling": "linear"}, "scaling=linear needs a rope.factor above 1"),
        ({"scaling": "ntk", "factor": 0.5}, "rope.factor must be at least 1, got 0.5"),
        ({"scaling": "ntk", "factor": 2.0, "fraction": 0.25}, "at least 4 dimensions"),
        ({"scaling": "dynamic", "target_length": 4096}, "rope.target_length.* above .*, 4096"),
        ({"scaling": "yarn", "factor": 2.0, "base": 1.0}, "rope.base above 1"),
        ({"scaling": "yarn", "factor": 2.0, "beta_slow": 32.0}, "rope.beta_slow .* below"),
        ({"scaling": "llama3", "factor": 2.0, "beta_slow": 0.0}, "rope.beta_slow must be above 0"),
        ({"scaling": "yarn", "factor": 2.0, "attention_factor": -1.0}, "rope.attention_factor"),
        ({"scaling": "p_rope"}, "a rope.kept that turns some"),
        ({"scaling": "p_rope", "kept": 0.1}, "0.1 turns 0"),
    ],
)
def test_a_scaling_that_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(8, **options)
