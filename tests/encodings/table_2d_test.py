import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from relpos import encodings
from relpos.attention.slots import each_head
from relpos.nn.layer_encodings import is_shared_by_layers
from tests import oracle


class Oracle(oracle.Oracle):
    VARIANTS = ({"height": 3, "width": 4, "outside": True},)

    def logit(self, q, k, i, j, scale, x, row, column):
        height, width = (self.options.get(side, 14) for side in ("height", "width"))
        (y, x), (v, u) = divmod(i, width), divmod(j, width)
        dy = max(1 - height, min(height - 1, y - v))
        dx = max(1 - width, min(width - 1, x - u))
        place = (dy + height - 1) * (2 * width - 1) + dx + width - 1
        return scale * float(q @ k) + self.p["table"][self.head][place]


def make(**options):
    return encodings.create("table_2d", num_heads=1, head_dim=4, rngs=nnx.Rngs(0), **options)


def places(table_2d, at):
    """Which row of the table each pair reads."""
    table_2d.table[...] = jnp.arange(table_2d.table.shape[1], dtype=float)[None]
    return each_head(lambda one: one.block_bias(at, at, None, None), table_2d)[0].astype(int)


# Swin's own index of a window of 2 x 2: queries are rows, and a key to the right has a smaller number.
SWIN = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]


def test_the_tables_order_is_swins():
    assert places(make(height=2, width=2), jnp.arange(4)).tolist() == SWIN


def test_cls_has_the_three_numbers_of_beit():
    """[CLS] to places, places to [CLS], [CLS] to itself, behind the table."""
    found = places(make(height=2, width=2, outside=True), jnp.arange(-1, 4))
    assert found.tolist() == [[11, 9, 9, 9, 9], *([10, *row] for row in SWIN)]


def test_what_lies_beyond_the_grid_counts_as_its_edge():
    at = jnp.array([[0, 0], [0, 9], [9, 1]])
    assert places(make(height=2, width=3), at)[1:, 0].tolist() == [5 + 4, 10 + 3]


def test_where_it_starts():
    table_2d = make()
    assert table_2d.table.shape == (1, 27 * 27)
    assert 0.018 < np.std(table_2d.table[...]) < 0.022
    assert not is_shared_by_layers((), table_2d.table)
    assert is_shared_by_layers((), make(per_layer=False).table)


@pytest.mark.parametrize(("option", "value"), [("height", 0), ("width", 1025)])
def test_a_grid_that_makes_no_sense_is_refused(option, value):
    with pytest.raises(
        ValueError, match=rf"table_2d\.{option} must be from 1 to 1024, got {value}"
    ):
        make(**{option: value})
