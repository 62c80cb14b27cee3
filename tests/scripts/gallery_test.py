from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from relpos import encodings
from tests.kinds import OF_EACH_KIND, quick_for
from tests.scripts.load import script

gallery = script("gallery")


def starts_at_zero(name):
    encoding = encodings.create(name, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    trained = jax.tree.leaves(nnx.state(encoding, nnx.Param))
    return bool(trained) and not any(x.any() for x in trained)


ALIKE = {"repo"}  # tokens that say the same stand at one place


@pytest.mark.parametrize("name", quick_for(OF_EACH_KIND))
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


SMALL = gallery.Training(length=16, lag=2, steps=80, batch=16, vocabulary=4, learning_rate=0.01)


def test_layers_see_equal_tokens_as_the_scheme_has_it():
    layers = gallery.of_layers(SMALL.decoder("alibi"), 64)
    assert len(layers) == 2
    for weights in layers:  # both see equal tokens, so that only the bias differs: slope 2^-2
        assert weights.shape == (gallery.HEADS, 64)
        np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-5)
        np.testing.assert_allclose(weights[0, 1:9] / weights[0, :8], np.exp(-0.25), rtol=1e-4)


def test_a_short_training_teaches_the_lag():
    untrained = SMALL.decoder("shaw")
    before = jax.tree.map(np.asarray, nnx.state(untrained))
    trained = SMALL.trained(untrained)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(untrained))
    assert SMALL.right(untrained)[0] < 0.5
    within, beyond = SMALL.right(trained)
    assert within > 0.9
    # Shaw's distances from 16 on are alike: what is right up to there is right on longer rows.
    assert beyond > 0.9
    strongest = max(
        layer[:, 2].max() / np.median(layer) for layer in gallery.of_layers(trained, 64)
    )
    assert strongest > 5


def test_the_picture_of_one_scheme_is_small_and_has_both_panels(tmp_path):
    figure = gallery.draw_scheme("none", gallery.Training(length=16, steps=10, batch=2))
    left, right = figure.axes
    assert left.get_title() == "none, untrained"
    assert right.get_title().startswith("after 10 steps: ")
    for panel in figure.axes:
        assert sum(len(line.get_xdata()) == 64 for line in panel.lines) == 2 * gallery.HEADS
        assert 16 in [line.get_xdata()[0] for line in panel.lines if len(line.get_xdata()) == 2]
    gallery.save_small(figure, tmp_path / "none.png")
    with Image.open(tmp_path / "none.png") as picture:
        assert picture.mode == "P"


def test_an_unknown_scheme_is_refused_before_anything_is_drawn(tmp_path, capsys):
    with pytest.raises(SystemExit):
        gallery.main(["--schemes", "rope", "rop", f"--folder={tmp_path / 'out'}"])
    assert "did you mean 'rope'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_every_scheme_has_a_small_picture_in_the_docs():
    folder = Path(__file__).parents[2] / "docs" / "encodings"
    pictures = {path.stem: path for path in folder.glob("*.png")}
    missing = "run python scripts/gallery.py --schemes"
    assert sorted(pictures) == list(encodings.names()), missing
    for path in pictures.values():
        assert path.stat().st_size < 25_000, path
        with Image.open(path) as picture:
            assert picture.size == (700, 200), path
