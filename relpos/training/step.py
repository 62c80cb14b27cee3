"""The training state and the one step that moves it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from relpos.training.task import Task

Metrics = dict[str, tuple[jax.Array, jax.Array]]
TrainStep = Callable[[nnx.State, Mapping[str, jax.Array], jax.Array], tuple[nnx.State, Metrics]]


def init_state(
    task: Task, tx: optax.GradientTransformation, key: jax.Array
) -> tuple[nnx.GraphDef, nnx.State]:
    """Return ``nnx.split((model, optimizer))``, untrained; the state is what checkpoints hold."""
    model = task.init_model(nnx.Rngs(key))
    return nnx.split((model, nnx.Optimizer(model, tx, wrt=nnx.Param)))


def make_train_step(task: Task, graphdef: nnx.GraphDef, learning_rate: optax.Schedule) -> TrainStep:
    """Return ``step(state, batch, key) -> state, metrics``; the state is donated.

    It is two jitted programs, gradients and update: a batch of another shape compiles the first one alone.

    Randomness comes from the key folded with the optimizer's step count, so that it is the same
    whether or not the run was interrupted. The metrics are the task's (sum, count) pairs, and

    - ``gradient_norm``: the global norm, before clipping;
    - ``parameter_norm``: after the update;
    - ``optimizer_maximum``: the largest magnitude in the optimizer's state, after the update. Where
      these and the loss are finite, so is the state;
    - ``learning_rate``: of this update.
    """

    @jax.jit
    def differentiate(state, batch, key):
        model, optimizer = nnx.merge(graphdef, state)
        key = jax.random.fold_in(key, optimizer.step[...])

        def loss_fn(model):
            return task.loss(model, batch, key)

        (loss, metrics), gradients = nnx.value_and_grad(loss_fn, has_aux=True)(model)
        # What a model keeps beside its parameters, running means for example, the loss may have changed.
        kept = nnx.state(model, nnx.Not(nnx.Param))
        return gradients, kept, {"loss": (loss, 1.0), **metrics}

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, gradients, kept):
        model, optimizer = nnx.merge(graphdef, state)
        nnx.update(model, kept)
        done = optimizer.step[...]
        optimizer.update(model, gradients)
        metrics = {
            "gradient_norm": (optax.tree.norm(gradients), 1.0),
            "parameter_norm": (optax.tree.norm(nnx.state(model, nnx.Param)), 1.0),
            # The squares of a norm would overflow where second moments are merely large.
            "optimizer_maximum": (_maximum(optimizer.opt_state), 1.0),
            "learning_rate": (learning_rate(done), 1.0),
        }
        return nnx.state((model, optimizer)), metrics

    def train_step(state, batch, key):
        gradients, kept, metrics = differentiate(state, batch, key)
        state, more = update(state, gradients, kept)
        return state, metrics | more

    return train_step


def model_of(graphdef: nnx.GraphDef, state: nnx.State) -> Any:
    """Return the model of a state. It shares the buffers, which the next step will donate."""
    model, _ = nnx.merge(graphdef, state)
    return model


def _maximum(tree: Any) -> jax.Array:
    """Return the largest magnitude among the real numbers of a tree; NaN where there is one."""
    real = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.max(
        jnp.array([0.0] + [jnp.max(jnp.abs(x), initial=0).astype(jnp.float32) for x in real])
    )
