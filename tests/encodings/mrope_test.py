import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from tests import oracle


def axes_of_pairs(M, sections=(), interleaved=True, axes=3):
    """Which axis each pair turns by."""
    if not sections:
        sections = [len(range(a, M, axes)) for a in range(axes)]
    if not interleaved:
        return [axis for axis, count in enumerate(sections) for _ in range(count)]
    found, left = [], list(sections)
    for m in range(M):  # in turn, and the first axis where an axis has none left
        axis = m % len(sections) if left[m % len(sections)] else 0
        left[axis] -= 1
        found.append(axis)
    return found


def turn(x, place, base=10000.0, layout="half", **shares):
    M = len(x) // 2
    out = np.array(x, np.float64)
    for m, axis in enumerate(axes_of_pairs(M, **shares)):
        a, b = (m, m + M) if layout == "half" else (2 * m, 2 * m + 1)
        angle = place[axis] * base ** (-2 * m / len(x))
        out[a] = x[a] * np.cos(angle) - x[b] * np.sin(angle)
        out[b] = x[b] * np.cos(angle) + x[a] * np.sin(angle)
    return out


class Oracle(oracle.Oracle):
    VARIANTS = ({"base": 500.0, "layout": "interleaved", "interleaved": False},)

    def logit(self, q, k, i, j, scale, x, row, column):
        q, k = (turn(x, (at,) * 3, **self.options) for x, at in ((q, i), (k, j)))
        return scale * float(q @ k)


def make(head_dim=12, heads=1, **options):
    return encodings.create(
        "mrope", num_heads=heads, head_dim=head_dim, rngs=nnx.Rngs(0), **options
    )


SHARES = [
    {},
    {"sections": (4, 1, 1)},
    {"interleaved": False},
    {"sections": (1, 3, 2), "interleaved": False, "layout": "interleaved"},
    {"axes": 2, "base": 100.0},
]


@pytest.mark.parametrize("options", SHARES, ids=str)
def test_each_pair_turns_by_its_axis_and_shifting_all_of_an_axis_changes_nothing(options):
    axes = options.get("axes", 3)
    with jax.enable_x64(True):
        encoding, random = make(**options), np.random.default_rng(0)
        q, k, v = (jnp.asarray(random.normal(size=(1, 7, 1, 12))) for _ in range(3))
        at = random.uniform(-3, 9, (7, axes))
        found, shifted = (
            attention(q, k, v, encoding=encoding, q_positions=x, k_positions=x)
            for x in (at, at + 10.0 * np.arange(axes) - 4)
        )
        np.testing.assert_allclose(shifted, found, atol=1e-10)
        q_T, k_T = (
            np.array(
                [turn(row, place, **options) for row, place in zip(x[0, :, 0], at, strict=True)]
            )
            for x in (q, k)
        )
        weights = np.exp(q_T @ k_T.T / 12**0.5)
        expected = weights / weights.sum(1, keepdims=True) @ v[0, :, 0]
        np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-10)


def test_axes_are_shared_as_in_released_models():
    """Qwen3-VL: time, height, width in turn, time alone at the end; Qwen2-VL: one axis after another."""
    three = make(128, sections=(24, 20, 20)).axis_of_pairs
    assert three == (0, 1, 2) * 20 + (0,) * 4
    two = make(128, sections=(16, 24, 24), interleaved=False).axis_of_pairs
    assert two == (0,) * 16 + (1,) * 24 + (2,) * 24
    assert make(128).axis_of_pairs == (0, 1, 2) * 21 + (0,)
    assert make(20, interleaved=False).axis_of_pairs == (0, 0, 0, 0, 1, 1, 1, 2, 2, 2)
    assert make(4).axis_of_pairs == (0, 1)


@pytest.mark.parametrize("interleaved", [True, False])
def test_text_is_rope(interleaved):
    q = jax.random.normal(jax.random.key(0), (1, 9, 1, 12))
    rope = encodings.create("rope", num_heads=1, head_dim=12, rngs=nnx.Rngs(0))
    expected = attention(q, q, q, encoding=rope)
    encoding, line = make(interleaved=interleaved), jnp.arange(9)
    for at in (None, line, jnp.stack([line] * 3, -1)):
        found = attention(q, q, q, encoding=encoding, q_positions=at, k_positions=at)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("head_dim", "options", "message"),
    [
        (12, {"axes": 1}, "mrope.axes must be from 2 to 16, got 1"),
        (12, {"axes": 10**8}, "mrope.axes must be from 2 to 16"),
        (12, {"sections": (2, 2)}, "mrope.sections must be empty or 3 integers.*6 pairs"),
        (12, {"sections": (2, 2, 3)}, "add up to the 6 pairs"),
        (12, {"sections": (2.0, 2.0, 2.0)}, "integers"),
        (12, {"sections": (1, 3, 2)}, "interleaved mrope.sections .*: axis 1 may have 2 of 6"),
        (8, {"sections": (2, 2, 0)}, "axis 1 may have 1 of 4"),
        (12, {"layout": "pairs"}, "unknown mrope.layout"),
        (12, {"base": 0.5}, "mrope.base must be at least 1"),
        (7, {}, "head_dim must be even, got 7"),
    ],
)
def test_what_makes_no_sense_is_refused(head_dim, options, message):
    with pytest.raises(ValueError, match=message):
        make(head_dim, **options)


def test_positions_of_other_axes_are_refused():
    q = jnp.ones((1, 4, 1, 12))
    with pytest.raises(ValueError, match=r"MRoPE takes 3 numbers.*have 2"):
        attention(
            q, q, q, encoding=make(), q_positions=jnp.zeros((4, 2)), k_positions=jnp.zeros((4, 2))
        )
