"""The training state and the training step."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from relpos import cores
from relpos.training.task import Metrics, Task

TrainStep = Callable[[nnx.State, Mapping[str, Any], jax.Array], tuple[nnx.State, Metrics]]


def init_state(
    task: Task, tx: optax.GradientTransformation, key: jax.Array
) -> tuple[nnx.GraphDef, nnx.State]:
    """Return ``nnx.split((model, optimizer))``, untrained. Checkpoints store the state.

    A single program initializes everything, because compiling each parameter's draws separately is slow.
    """

    @jax.jit
    def make(key):
        model = task.init_model(nnx.Rngs(key))
        return nnx.split((model, nnx.Optimizer(model, tx, wrt=nnx.Param)))

    graphdef, state = make(key)
    # Commit the state to the device, as an update does; otherwise the second step would recompile.
    return graphdef, jax.device_put(state, jax.local_devices()[0])


def continued(
    task: Task, tx: optax.GradientTransformation, state: nnx.State
) -> tuple[nnx.GraphDef, nnx.State]:
    """Return the same as `init_state`, with values from `state`, whose model has additional parameters.

    The optimizer state is kept, except for the removed parameters.
    """
    graphdef, made = jax.eval_shape(lambda: init_state(task, tx, jax.random.key(0)))
    found = dict(nnx.to_flat_state(state))
    kept = [(path, found[path]) for path, _ in nnx.to_flat_state(made)]
    return graphdef, nnx.from_flat_state(kept)


def make_train_step(task: Task, graphdef: nnx.GraphDef, learning_rate: optax.Schedule) -> TrainStep:
    """Return ``step(state, batch, key) -> state, metrics``; the state is donated.

    Gradients and update are separate programs, so a new batch shape recompiles only the gradients. If CPU cores are
    devices, they share the rows of a batch (`relpos.cores`); the loss is the mean over everything its metric counts.

    The key is folded with the optimizer's step count, so that a resumed run draws the same random numbers. The metrics
    are the task's (sum, count) pairs, and

    - ``gradient_norm``: the global norm before clipping;
    - ``parameter_norm``: the global norm after the update;
    - ``optimizer_maximum``: the largest magnitude in the optimizer state after the update. If these and the loss are
      finite, so is the state;
    - ``learning_rate``: the learning rate of this update.
    """

    def differentiate(graphdef, state, batch):
        model_state, step, key = state
        model = nnx.merge(graphdef, model_state)
        key = cores.own_key(jax.random.fold_in(key, step))

        def loss_fn(model):
            metrics = task.metrics(model, batch, key)
            total, count = metrics.get("objective", metrics["loss"])
            return total / jnp.maximum(count, 1), metrics

        (_, metrics), gradients = nnx.value_and_grad(loss_fn, has_aux=True)(model)
        # The loss may have changed variables other than parameters, such as running means.
        kept = nnx.state(model, nnx.Not(nnx.Param))
        _, count = metrics.get("objective", metrics["loss"])
        share = _Share(gradients, kept, metrics, count)
        return jax.tree.map(lambda x: jnp.asarray(x)[None], share)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(state, shares):
        model, optimizer = nnx.merge(graphdef, state)
        gradients, kept, of_task = _put_together(shares)
        nnx.update(model, kept)
        done = optimizer.step[...]
        optimizer.update(model, gradients)
        metrics = {
            "gradient_norm": (optax.tree.norm(gradients), 1.0),
            "parameter_norm": (optax.tree.norm(nnx.state(model, nnx.Param)), 1.0),
            # Not a norm: the squares of large second moments would overflow.
            "optimizer_maximum": (_maximum(optimizer.opt_state), 1.0),
            "learning_rate": (learning_rate(done), 1.0),
        }
        return nnx.state((model, optimizer)), of_task | metrics

    of_model = None

    def train_step(state, batch, key):
        nonlocal of_model
        if of_model is None:
            of_model, _ = nnx.split(model_of(graphdef, state))
        shared = (state[0], state[1]["step"], key)
        return update(state, cores.parts(cores.by_rows(differentiate, (of_model,), shared, batch)))

    return train_step


class _Share(NamedTuple):
    """The results of one device's rows, each array with a leading axis of 1."""

    gradients: nnx.State
    kept: nnx.State
    metrics: Metrics
    weight: jax.Array  # weight of its mean loss


def _put_together(shares: Sequence[_Share]) -> tuple[nnx.State, nnx.State, Metrics]:
    """Return the gradients of the mean loss over all rows, the model's other variables, and the metrics.

    Other variables come from the first device: constants are equal on all, and running means may use part of the rows.
    """
    if len(shares) == 1:
        return jax.tree.map(lambda x: x[0], shares[0])[:3]
    counts = jnp.stack([share.weight[0] for share in shares]).astype(jnp.float32)
    weights = counts / jnp.maximum(counts.sum(), 1)
    gradients = jax.tree.map(
        lambda *xs: sum(x[0] * weight for x, weight in zip(xs, weights, strict=True)),
        *(share.gradients for share in shares),
    )
    metrics = jax.tree.map(lambda *xs: sum(x[0] for x in xs), *(share.metrics for share in shares))
    return gradients, jax.tree.map(lambda x: x[0], shares[0].kept), metrics


def model_of(graphdef: nnx.GraphDef, state: nnx.State) -> Any:
    """Return the model of a state. It shares buffers that the next step donates."""
    model, _ = nnx.merge(graphdef, state)
    return model


def _maximum(tree: Any) -> jax.Array:
    """Return the largest magnitude among the real numbers of a tree, or NaN if any is NaN."""
    real = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
    largest = [jnp.max(jnp.abs(x), initial=0).astype(jnp.float32) for x in real]
    return jnp.max(jnp.array([0.0, *largest]))
