"""The config section ``optimizer``, and the optimizer and learning-rate schedule that it defines."""

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
    """The optimizer and its learning-rate schedule.

    Attributes:
      name: one of `relpos/training/optimizers`.
      options: name -> options, such as b1, b2 and weight_decay.
      learning_rate: peak learning rate.
      warmup_steps: steps of linear warm-up, part of the run's steps.
      schedule: the schedule after the warm-up, one of `relpos/training/schedules`.
      schedules: name -> options.
      final_fraction: final learning rate / peak.
      clip_norm: maximum global gradient norm; None: no clipping.
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
        # Check the options of all, not just the chosen ones.
        for name, options in self.options.items():
            optimizers.call(name, lambda step: 0.0, **options)
        for name, options in self.schedules.items():
            jax.eval_shape(functools.partial(schedules.call, name, **options), 0.0)


def create_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Return the gradient transformation, including clipping, for a run of `steps` steps."""
    norm, rate = config.clip_norm, learning_rate(config, steps)
    clip = optax.identity() if norm is None else optax.clip_by_global_norm(norm)
    return optax.chain(clip, optimizers.call(config.name, rate, **config.options[config.name]))


def learning_rate(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Return step -> learning rate, for the steps 0 .. steps-1.

    The warm-up starts above 0, so that no step is wasted, and reaches the peak at its last step. The decay covers the
    remaining steps and would end at `steps`.
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
