"""What optimizers share: which parameters are kernels, which alone are decayed, and a check of their options."""

from typing import Any

import jax


def is_kernel(path: tuple) -> bool:
    """Tell whether a parameter's tree path ends in the name ``kernel``.

    These are the matrices [..., in, out] (leading axes: layers). The number of axes does not tell them from stacked
    biases and norms; the name does.
    """
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return bool(names) and names[-1] == "kernel"


def kernels(params: Any) -> Any:
    """Return a tree like `params` with True for each kernel."""
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def check_decays(**decays: float) -> None:
    """Check that decays of moments are in [0, 1), and `weight_decay` is at least 0 and finite.

    Raises:
      ValueError: it names the first that is not.
    """
    for name, value in decays.items():
        most = float("inf") if name == "weight_decay" else 1
        if not 0 <= value < most:
            raise ValueError(f"{name} must be in [0, {most}), got {value}")
