"""Optimizers and learning-rate schedules from plain options."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from relpos.errors import UserError, did_you_mean

WSD_DECAY = 0.2  # the last fifth of the run: Hägele et al. 2024, arXiv:2405.18392, sec. 3
MUON_RMS = 0.2  # an AdamW update's root mean square: Liu et al. 2025, arXiv:2502.16982, sec. 2.2


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """The section ``optimizer`` of a config.

    Attributes:
      name: ``adamw`` or ``muon`` (Muon for the kernels, Adam with Nesterov momentum for all else).
      learning_rate: the peak.
      warmup_steps: steps of linear growth to the peak, part of the run's steps.
      schedule: after that ``constant``, ``cosine`` down to the final rate, or ``wsd`` (warm-up,
        stable, decay: constant but for a linear fall over the last fifth of the run).
      final_fraction: final learning rate / peak.
      weight_decay: of the kernels alone, times the learning rate.
      b1: Adam's decay of the first moment; Muon's momentum too.
      b2: Adam's decay of the second moment.
      clip_norm: the largest global norm of a gradient, 0 for no limit.
    """

    name: str
    learning_rate: float
    warmup_steps: int
    schedule: str
    final_fraction: float
    weight_decay: float
    b1: float
    b2: float
    clip_norm: float

    def __post_init__(self):
        for key, known in (("name", _OPTIMIZERS), ("schedule", _DECAYS)):
            name = getattr(self, key)
            if name not in known:
                raise UserError(f"unknown optimizer.{key} {name!r}{did_you_mean(str(name), known)}")
        for key in ("warmup_steps", "final_fraction", "weight_decay", "clip_norm"):
            self._check(key, 0 <= getattr(self, key) < float("inf"), "at least 0 and finite")
        self._check("learning_rate", 0 < self.learning_rate < float("inf"), "positive and finite")
        for key in ("b1", "b2"):
            self._check(key, 0 <= getattr(self, key) < 1, "in [0, 1)")

    def _check(self, key: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UserError(f"optimizer.{key} must be {rule}, got {getattr(self, key)!r}")

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> "OptimizerOptions":
        """Return the options of a config section.

        Raises:
          UserError: a key is missing, unknown, or its value makes no sense.
        """
        given = dict(section)
        known = [field.name for field in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                raise UserError(f"unknown key 'optimizer.{key}'{did_you_mean(key, known)}")
        if missing := [key for key in known if key not in given]:
            raise UserError(f"the config lacks {', '.join(f'optimizer.{key}' for key in missing)}")
        return cls(**given)


def create_optimizer(options: OptimizerOptions, steps: int) -> optax.GradientTransformation:
    """Return the gradient transformation of a run of so many steps, clipping included."""
    clip = optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity()
    return optax.chain(clip, _OPTIMIZERS[options.name](options, learning_rate(options, steps)))


def learning_rate(options: OptimizerOptions, steps: int) -> optax.Schedule:
    """Return step -> learning rate, for the steps 0 .. steps-1.

    The warm-up reaches its peak at its last step and starts above 0, so that no step is lost; the
    decay spans what the warm-up leaves of the run and would reach its end at `steps`.
    """
    warmup, decay = options.warmup_steps, _DECAYS[options.schedule]

    def rate(step):
        step = jnp.asarray(step, jnp.float32)  # counts may be unsigned, and step - warmup below 0
        grown = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        done = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        fraction = options.final_fraction + (1 - options.final_fraction) * decay(done)
        return options.learning_rate * grown * fraction

    return rate


def is_kernel(path: tuple) -> bool:
    """Tell whether a parameter's tree path ends in the name ``kernel``.

    These are the matrices [..., in, out] (leading axes: layers) that are decayed and that Muon
    turns. The number of axes does not tell them from stacked biases and norms; the name does.
    """
    names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
    return bool(names) and names[-1] == "kernel"


def _kernels(params):
    return jax.tree_util.tree_map_with_path(lambda path, _: is_kernel(path), params)


def _adamw(options: OptimizerOptions, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(
        rate, options.b1, options.b2, weight_decay=options.weight_decay, mask=_kernels
    )


def _muon(options: OptimizerOptions, rate: optax.Schedule) -> optax.GradientTransformation:
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1)

    def dimension_numbers(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: matrix if is_kernel(path) else None, params
        )

    return optax.contrib.muon(
        rate,
        beta=options.b1,
        weight_decay=options.weight_decay,
        adam_b1=options.b1,
        adam_b2=options.b2,
        muon_weight_dimension_numbers=dimension_numbers,
        consistent_rms=MUON_RMS,
    )


_OPTIMIZERS: dict[str, Callable[[OptimizerOptions, optax.Schedule], Any]] = {
    "adamw": _adamw,
    "muon": _muon,
}

# Fraction of the decay phase done -> how far the rate is from its final value, 1 to 0.
_DECAYS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "constant": jnp.ones_like,
    "cosine": lambda done: 0.5 * (1 + jnp.cos(jnp.pi * done)),
    "wsd": lambda done: jnp.minimum(1.0, (1 - done) / WSD_DECAY),
}
