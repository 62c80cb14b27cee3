import jax.numpy as jnp
import numpy as np
import pytest

from relpos import positions


def test_positions_count_from_the_first_token_of_a_segment():
    segments = jnp.array([[1, 1, 1, 2, 2, 0, 0], [0, 0, 3, 3, 7, 3, 3]])
    expected = [[0, 1, 2, 0, 1, 0, 1], [0, 1, 0, 1, 0, 3, 4]]
    assert positions.within_segments(segments).tolist() == expected


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 3, 100, (1, 4), (None, 3), (5, None)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("itself", [True, False])
def test_visible_is_the_rule_written_out(causal, window, packed, itself):
    random = np.random.default_rng(0)
    q, k = random.integers(-9, 9, 11), random.integers(-9, 9, 13)
    qs, ks = random.integers(0, 3, 11), random.integers(0, 3, 13)

    past, future = window if isinstance(window, tuple) else (window, window)

    def rule(i, j):
        d = q[i] - k[j]
        return (
            (not causal or d >= 0)
            and (past is None or d < past)
            and (future is None or -d < future)
            and (itself or d != 0)
            and (not packed or (qs[i] == ks[j] and ks[j] != 0))
        )

    expected = [[rule(i, j) for j in range(13)] for i in range(11)]
    segments = (jnp.array(qs), jnp.array(ks)) if packed else (None, None)
    kw = {"causal": causal, "window": window, "itself": itself}
    found = positions.visible(jnp.array(q), jnp.array(k), *segments, **kw)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("position", "most"), [(3, 1e-6), (-3, 1e-6), (4095, 3e-4), (-(10**6), 5e-4), (10**7, 3e-3)]
)
def test_angles_are_right_up_to_whole_turns(position, most):
    theta = 10000.0 ** (-np.arange(0, 64, 2) / 64)
    found = positions.angles(jnp.array([position]), 10000.0, 64)[0]
    assert (
        np.abs(np.exp(1j * np.asarray(found, float)) - np.exp(1j * position * theta)).max() < most
    )


def test_waves_are_sines_and_cosines_of_any_quadrant_and_size():
    x = np.concatenate([np.linspace(-20_000, 20_000, 200_001), np.arange(-40, 40) * np.pi / 4])
    x = x.astype(np.float32)
    for found, expected in zip(positions._sines_and_cosines(x), (np.sin, np.cos), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected(x.astype(np.float64)), rtol=0, atol=3e-7)
    places = jnp.array([-(10**7), -5, 0, 1, 4095, 4096, 10**6, 10**7])
    angles = np.asarray(positions.angles(places, 10000.0, 64), np.float64)
    sin, cos = positions.waves(places, 10000.0, 64)
    np.testing.assert_allclose(sin, np.sin(angles), rtol=0, atol=3e-7)
    np.testing.assert_allclose(cos, np.cos(angles), rtol=0, atol=3e-7)
