"""Helpers for optimizers: selecting kernels, the only parameters that are decayed, and checking options."""

from typing import Any

import jax


def kernels(params: Any) -> Any:
    """Return a tree like `params` with True for each kernel, a parameter whose tree path ends in the name ``kernel``.

    Kernels are matrices [..., in, out]; leading axes are layers. Stacked biases and norms may have as many axes, so
    only the name distinguishes kernels.
    """

    def is_kernel(path: tuple, _: Any) -> bool:
        names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
        return names[-1:] == ["kernel"]

    return jax.tree_util.tree_map_with_path(is_kernel, params)


def check_decays(**decays: float) -> None:
    """Check that moment decays are in [0, 1), and that `weight_decay` is finite and at least 0.

    Raises:
      ValueError: a decay is out of range.
    """
    for name, value in decays.items():
        most = float("inf") if name == "weight_decay" else 1
        if not 0 <= value < most:
            raise ValueError(f"{name} must be in [0, {most}), got {value}")
