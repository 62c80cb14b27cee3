import jax
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from tests.scripts.load import script

gallery = script("gallery")


def starts_at_zero(name):
    encoding = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    trained = jax.tree.leaves(nnx.state(encoding, nnx.Param))
    return bool(trained) and not any(x.any() for x in trained)


ALIKE = {"repo"}  # tokens that say the same stand at one place


@pytest.mark.parametrize("name", encodings.names())
def test_every_scheme_has_a_picture(name):
    weights = gallery.weights(name, 16)
    assert weights.shape == (gallery.HEADS, 16)
    says = encodings.scheme(name).overridden
    if "sink" in says:  # which has the rest
        assert (weights.sum(1) < 1 - 1e-5).all()
    else:
        np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-5)
    if not starts_at_zero(name):
        assert (np.ptp(weights) > 1e-4) == bool(says - {"sink"} and name not in ALIKE)


def test_the_last_query_sees_distance_zero_first():
    # ALiBi's first head of four: slope 2^-2.
    weights = gallery.weights("alibi", 16)[0]
    np.testing.assert_allclose(weights[1] / weights[0], np.exp(-0.25), rtol=1e-5)


def test_one_panel_for_each():
    figure = gallery.draw(["none", "rope", "t5"], 8)
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title] == ["none", "rope", "t5"]
    assert len(figure.axes[1].lines) == gallery.HEADS
