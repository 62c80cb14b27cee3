"""Positions that are no integers, or have axes: what attention makes of them, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import attention, encodings
from relpos.attention import PerHead
from tests.attending import B, H, N, T, assert_trees_close, attend, inputs, make, value_and_grads


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


class Grid(encodings.Encoding):
    """Slots that read row and column: turned queries, keys and values, and a bias of each pair."""

    axes = 2
    reals = True

    def __init__(self):
        random = np.random.default_rng(5)
        self.turn = PerHead(jnp.asarray(random.normal(size=(N, 2))))
        self.pull = nnx.Param(jnp.asarray(random.normal(size=2)))

    def _waved(self, x_TH, positions_T2):
        return x_TH * jnp.cos(positions_T2 @ self.turn[...])[:, None]

    def query(self, q_TH, positions_T, features_T):
        return self._waved(q_TH, positions_T)

    def key(self, k_SH, positions_S, features_S):
        return self._waved(k_SH, positions_S)

    def finish(self, out_TH, positions_T, features_T):
        return out_TH * jnp.sin(positions_T @ self.pull[...])[:, None]

    def block_bias(self, q_positions, k_positions, q_features, k_features):
        return -jnp.abs(q_positions[:, None] - k_positions[None]) @ self.pull[...]


PLACES = np.random.default_rng(3).integers(0, 9, (B, T, 2))
ORDER = np.random.default_rng(4).permutation(T)
PACKED = jnp.asarray(np.array([[1] * 5 + [2] * 21 + [0] * 11, [0] * 3 + [4] * 34]))
KINDS = {
    "causal": {"causal": True},
    "each row alike": {"causal": True, "q_positions": PLACES[0], "k_positions": PLACES[0]},
    "reals": {"q_positions": PLACES / 3, "k_positions": PLACES / 3, "window": 7},
    "an order, packed": {"causal": True, "q_order": ORDER, "k_order": ORDER, "window": 12,
                         "q_segments": PACKED, "k_segments": PACKED},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_paths_agree_on_positions_of_two_axes(kind):
    kw = {"q_positions": PLACES, "k_positions": PLACES} | KINDS[kind]
    weight = jnp.asarray(np.random.default_rng(9).normal(size=(B, T, N, H)))
    paths = ["blockwise", "pallas"] if kind == "an order, packed" else ["blockwise"]
    expected = value_and_grads(Grid(), inputs(), weight, implementation="reference", **kw)
    for path in paths:
        found = value_and_grads(
            Grid(), inputs(), weight, implementation=path, block_sizes=(8, 16), **kw
        )
        assert_trees_close(found, expected, 1e-10)


def test_tokens_with_axes_follow_each_other_as_they_stand_in_their_row():
    arrays, rows = inputs(), jnp.arange(T)
    run = lambda **kw: attend(  # noqa: E731
        Grid(), *arrays, causal=True, window=5, q_positions=PLACES, k_positions=PLACES, **kw
    )
    np.testing.assert_array_equal(run(), run(q_order=rows, k_order=rows))


@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_a_window_of_reals_is_a_distance(implementation):
    """At every quarter of a position a window of 2 holds eight tokens."""
    q, k, v, _ = inputs()
    at = np.arange(T) / 4
    kw = {"causal": True, "implementation": implementation, "block_sizes": (8, 16)}
    found = attention(q, k, v, window=2, q_positions=at, k_positions=at, **kw)
    np.testing.assert_allclose(found, attention(q, k, v, window=8, **kw), atol=1e-12)


@pytest.mark.parametrize("options", [{"clamp": 5}, {}], ids=str)
def test_a_band_is_of_whole_distances_alone(options):
    """Distances beyond the clamp are held, where no table can hold them."""
    encoding, arrays = make("transformer_xl", **options), inputs()
    at = np.arange(T) / 2
    found, expected = (
        attend(encoding, *arrays, implementation=path, q_positions=at, k_positions=at)
        for path in ("blockwise", "reference")
    )
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_no_gradient_goes_to_positions_by_any_path():
    q, k, v, _ = inputs()
    rope = make("rope")

    def loss(at, path):
        kw = {"q_positions": at, "k_positions": at, "implementation": path}
        return attention(q, k, v, encoding=rope, **kw).sum()

    for path in ("reference", "blockwise"):
        assert not jax.grad(loss)(jnp.arange(T) / 2, path).any()


class Distant(Grid):
    """Two axes, and yet a slot of the one distance."""

    def bias(self, d):
        return d * 1.0


REFUSED = {
    "a table of reals": ("shaw", np.arange(T) / 2, "round them to integers"),
    "axes of a row": ("rope", PLACES, "RoPE takes one number"),
    "too many axes": (Grid, np.zeros((B, T, 3)), "Grid takes 2 numbers"),
    "a distance between places": (Distant, PLACES, "may fill no distance slot"),
    "half precision": ("rope", jnp.arange(T, dtype=jnp.bfloat16), "float32 or float64"),
    "another length": ("rope", np.arange(T + 1), f"shape [{B}, {T}] or [{T}], or with axes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why(case):
    scheme, at, message = REFUSED[case]
    encoding = make(scheme) if isinstance(scheme, str) else scheme()
    with pytest.raises(ValueError, match=re.escape(message)):
        attend(encoding, *inputs(), q_positions=at, k_positions=at)


def test_queries_and_keys_have_the_same_axes():
    with pytest.raises(ValueError, match="the same axes"):
        attend(Grid(), *inputs(), q_positions=PLACES, k_positions=np.arange(T))
