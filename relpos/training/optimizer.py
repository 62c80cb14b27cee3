"""The section ``optimizer`` of a config, and the optimizer and learning rates that it describes."""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from relpos.sections import Options, above, at_least, name_in, options_of
from relpos.training import optimizers, schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How a model is updated.

    Attributes:
      name: one of `relpos/training/optimizers`.
      options: name -> its options, such as b1, b2 and weight_decay.
      learning_rate: the peak.
      warmup_steps: steps of linear growth to the peak, part of the run's steps.
      schedule: what comes after them, one of `relpos/training/schedules`.
      schedules: name -> its options.
      final_fraction: final learning rate / peak.
      clip_norm: the largest global norm of a gradient; None: no limit.
    """

    name: Annotated[str, name_in(optimizers)] = "muon"
    options: Options = options_of(optimizers)
    learning_rate: Annotated[float, above(0)] = 0.006
    warmup_steps: Annotated[int, at_least(0)] = 40
    schedule: Annotated[str, name_in(schedules)] = "wsd"
    schedules: Options = options_of(schedules)
    final_fraction: Annotated[float, at_least(0)] = 0.0
    clip_norm: Annotated[float, above(0)] | None = 1.0

    def __post_init__(self):
        # Options of what is not chosen are checked as well.
        for name, options in self.options.items():
            optimizers.call(name, lambda step: 0.0, **options)
        for name, options in self.schedules.items():
            jax.eval_shape(functools.partial(schedules.call, name, **options), 0.0)


def create_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Return the gradient transformation of a run of so many steps, clipping included."""
    clip = (
        optax.identity()
        if config.clip_norm is None
        else optax.clip_by_global_norm(config.clip_norm)
    )
    rate = learning_rate(config, steps)
    return optax.chain(clip, optimizers.call(config.name, rate, **config.options[config.name]))


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return step -> learning rate, for the steps 0 .. steps-1.

    The warm-up reaches its peak at its last step and starts above 0, so that no step is lost; the
    decay spans what the warm-up leaves of the run and would reach its end at `steps`.
    """
    warmup, options = config.warmup_steps, config.schedules[config.schedule]

    def rate(step):
        step = jnp.asarray(step, jnp.float32)  # counts may be unsigned, and step - warmup below 0
        grown = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        done = jnp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
        left = schedules.call(config.schedule, done, **options)
        fraction = config.final_fraction + (1 - config.final_fraction) * left
        return config.learning_rate * grown * fraction

    return rate
