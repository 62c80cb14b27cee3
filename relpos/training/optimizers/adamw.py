"""AdamW. Loshchilov and Hutter 2019, arXiv:1711.05101."""

import optax

from relpos.training.optimizers.base import check_decays, kernels


def create(
    rate: optax.Schedule, *, b1: float = 0.9, b2: float = 0.98, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Return AdamW with weight decay on kernels only.

    Args:
      rate: step -> learning rate.
      b1: decay of the first moment.
      b2: decay of the second moment.
      weight_decay: weight decay, multiplied by the learning rate.

    Raises:
      ValueError: an option is out of range.
    """
    check_decays(b1=b1, b2=b2, weight_decay=weight_decay)
    return optax.adamw(rate, b1, b2, weight_decay=weight_decay, mask=kernels)
