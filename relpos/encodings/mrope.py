"""Rotations by several coordinates of each token, such as time, row and column."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from relpos import positions
from relpos.encodings.base import Dims
from relpos.encodings.rotations.pairs import Rotation
from relpos.registry import check_range

MOST_AXES = 16


class MRoPE(Rotation):
    """q_i R(phi_i) . k_j R(phi_j),  phi_m = p[a(m)] theta_m,  theta_m = base^(-2m/H): pair m turns by axis a(m).

        interleaved:  a = 0, 1, 2, 0, 1, 2, ...
        else:         a = 0, 0, ..., 1, 1, ..., 2

    Huang et al. 2025, "Revisiting Multimodal Positional Encoding in Vision-Language Models", arXiv:2510.23095, sec. 4,
    as in Qwen3-VL; in sections: Wang et al. 2024, "Qwen2-VL", arXiv:2409.12191, sec. 2.1. Positions are [T, axes],
    integers or reals: time, row and column in the papers. A single number stands for all axes, as for text, and the
    scheme is then `rope`. `sections` gives the number of pairs of each axis, (24, 20, 20) in Qwen3-VL, (16, 24, 24) in
    Qwen2-VL; with () the pairs are divided evenly, and the first axes get those left over. When interleaved, the pairs
    that axis 0 has beyond the others are the slowest. The pairs are those of `rope`. The caller decides which positions
    an image gets and where they start.

    Choose it for images, video and text in one row, as in Qwen's models: text has one number per token, and the scheme
    is then `rope`.

    Choose another for text alone. Each axis turns only a share of the pairs.
    """

    axes = 3
    reals = True

    def __init__(
        self,
        *,
        axes: int = 3,
        sections: tuple[int, ...] = (),
        interleaved: bool = True,
        base: float = 10000.0,
        layout: str = "half",
        dims: Dims,
        rngs: nnx.Rngs,
    ):
        super().__init__("mrope", dims, base, layout)
        check_range("mrope.axes", axes, 2, MOST_AXES)  # with one axis, it is rope
        M = dims.head_dim // 2
        counts = tuple(sections) or tuple((M + axes - 1 - a) // axes for a in range(axes))
        _check_sections(counts, axes, M)
        self.axes = axes
        of_pairs = np.repeat(np.arange(axes), counts)
        if interleaved:
            of_pairs = np.zeros(M, int)
            for axis in range(1, axes):
                may_have = of_pairs[axis::axes]  # a view
                if counts[axis] > len(may_have):
                    raise ValueError(
                        f"interleaved mrope.sections give an axis at most one pair in {axes}: axis {axis} may have "
                        f"{len(may_have)} of {M}, got {counts}"
                    )
                may_have[: counts[axis]] = axis
        self.axis_of_pairs = tuple(of_pairs.tolist())

    def _waves(self, positions_T, features_T):
        if positions_T.ndim == 1:
            return positions.waves(positions_T, self.base, self.head_dim)
        axis_M = np.array(self.axis_of_pairs)
        angles_TM = jnp.zeros((), float)
        for axis, place_T in enumerate(positions_T.T):
            of_axis_TM = positions.angles(place_T, self.base, self.head_dim)
            angles_TM = jnp.where(axis_M[None] == axis, of_axis_TM, angles_TM)
        return jnp.sin(angles_TM), jnp.cos(angles_TM)


def _check_sections(counts: tuple[int, ...], axes: int, pairs: int) -> None:
    """Check that the sections divide the pairs among the axes."""
    whole = all(isinstance(count, int) and not isinstance(count, bool) for count in counts)
    if not whole or len(counts) != axes or sum(counts) != pairs or min(counts) < 0:
        raise ValueError(
            f"mrope.sections must be empty or {axes} integers, one for each axis, that add up to the {pairs} pairs of "
            f"a head; got {counts}"
        )
