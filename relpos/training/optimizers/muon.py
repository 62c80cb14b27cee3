"""Muon for kernels, Adam with Nesterov momentum for all other parameters. Liu et al. 2025, arXiv:2502.16982."""

import jax
import optax
import optax.contrib

from relpos.training.optimizers.base import check_decays, kernels

RMS = 0.2  # root mean square of an AdamW update, sec. 2.2


def create(
    rate: optax.Schedule, *, b1: float = 0.9, b2: float = 0.98, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Return Muon with updates scaled to the size of AdamW's.

    Args:
      rate: step -> learning rate.
      b1: Muon's momentum, and Adam's decay of the first moment.
      b2: Adam's decay of the second moment.
      weight_decay: weight decay of kernels, multiplied by the learning rate.

    Raises:
      ValueError: an option is out of range.
    """
    check_decays(b1=b1, b2=b2, weight_decay=weight_decay)
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)

    def dimension_numbers(params):
        return jax.tree.map(lambda is_kernel: matrix if is_kernel else None, kernels(params))

    return optax.contrib.muon(
        rate,
        beta=b1,
        weight_decay=weight_decay,
        adam_b1=b1,
        adam_b2=b2,
        muon_weight_dimension_numbers=dimension_numbers,
        consistent_rms=RMS,
    )
