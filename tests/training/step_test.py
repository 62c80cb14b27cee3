import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from relpos.training.optimizer import create_optimizer, learning_rate
from relpos.training.step import init_state, make_train_step, model_of
from relpos.training.task import create_task


@pytest.fixture
def setting(toy_config, tmp_path):
    """The toy task, its graph, its state and the step."""
    config = toy_config()
    task = create_task(config, tmp_path)
    options = config.optimizer
    graphdef, state = init_state(task, create_optimizer(options, 20), jax.random.key(0))
    return task, graphdef, state, make_train_step(task, graphdef, learning_rate(options, 20))


def test_the_step_is_pure_donates_its_state_and_needs_no_other_transfers(setting):
    task, _, state, step = setting
    batch = jax.device_put(next(task.train_batches()))
    key = jax.random.key(1)
    before = jax.tree.leaves(state)
    state, _ = step(state, batch, key)
    assert all(leaf.is_deleted() for leaf in before)
    with jax.transfer_guard("disallow"), jax.no_tracing():
        state, metrics = step(state, batch, key)
        jax.device_get(metrics)


def test_the_dropout_follows_the_step(setting):
    """Two steps draw other masks from the same key, and each draws them again when repeated."""
    task, graphdef, state, step = setting
    batch = jax.device_put(next(task.train_batches()))

    def loss_at(count, key=1):
        copy = jax.tree.map(jax.numpy.copy, state)
        model, optimizer = nnx.merge(graphdef, copy)
        optimizer.step[...] = jax.numpy.uint32(count)
        _, metrics = step(nnx.state((model, optimizer)), batch, jax.random.key(key))
        return float(metrics["loss"][0])

    assert loss_at(0) == loss_at(0)
    assert loss_at(0) != loss_at(1)
    assert loss_at(0) != loss_at(0, key=2)


def test_the_reported_norms_and_rate(setting):
    task, graphdef, state, step = setting
    batch = jax.device_put(next(task.train_batches()))
    key = jax.random.key(1)

    def loss(model):
        total, count = task.metrics(model, batch, jax.random.fold_in(key, 0))["loss"]
        return total / count

    gradients = nnx.grad(loss)(model_of(graphdef, state))
    state, metrics = step(state, batch, key)
    parameters = nnx.state(model_of(graphdef, state), nnx.Param)
    for name, tree in (("gradient_norm", gradients), ("parameter_norm", parameters)):
        squares = sum(float(np.sum(np.square(leaf))) for leaf in jax.tree.leaves(tree))
        np.testing.assert_allclose(metrics[name][0], np.sqrt(squares), rtol=1e-5)
    np.testing.assert_allclose(metrics["learning_rate"][0], 0.05 / 2)
    _, optimizer = nnx.merge(graphdef, state)
    moments = [x for x in jax.tree.leaves(nnx.state(optimizer)) if x.dtype == np.float32]
    assert len(moments) == 6
    largest = max(float(np.abs(x).max()) for x in moments)
    np.testing.assert_allclose(metrics["optimizer_maximum"][0], largest, rtol=1e-6)


@pytest.mark.parametrize(
    ("moment", "value"), list(enumerate([np.nan, np.inf, -np.inf, np.nan, np.inf, -np.inf]))
)
def test_a_moment_that_is_not_finite_shows(setting, moment, value):
    task, _, state, step = setting
    leaves, structure = jax.tree.flatten(state)
    where = [i for i, x in enumerate(leaves) if x.dtype == np.float32][-6:][moment]
    leaves[where] = leaves[where].at[(0,) * leaves[where].ndim].set(value)
    state = jax.tree.unflatten(structure, leaves)
    _, metrics = step(state, jax.device_put(next(task.train_batches())), jax.random.key(1))
    assert not np.isfinite(metrics["optimizer_maximum"][0])


def test_a_memorised_batch_is_learnt(setting):
    task, _, state, step = setting
    batch = jax.device_put(next(task.train_batches()))
    first = last = None
    for _ in range(150):
        state, metrics = step(state, batch, jax.random.key(1))
        last = float(metrics["loss"][0] / metrics["loss"][1])
        first = last if first is None else first
    assert first > 2.4  # the logarithm of 13 is 2.56
    assert last < 0.8


class _Counting(nnx.Module):
    def __init__(self):
        self.weight = nnx.Param(jnp.ones(()))
        self.seen = nnx.BatchStat(jnp.zeros(()))


class _CountingTask:
    def init_model(self, rngs):
        return _Counting()

    def metrics(self, model, batch, key):
        model.seen[...] += batch["x"].size
        return {"loss": (model.weight[...] * batch["x"].sum(), 1.0)}


def test_another_shape_compiles_no_update_and_what_a_model_counts_is_kept():
    traced = []

    def update(gradients, state, params=None):
        traced.append(1)
        return jax.tree.map(jnp.negative, gradients), state

    tx = optax.GradientTransformation(lambda params: (), update)
    graphdef, state = init_state(_CountingTask(), tx, jax.random.key(0))
    step = make_train_step(_CountingTask(), graphdef, lambda done: 0.0)
    for length in (3, 5):
        state, _ = step(state, {"x": jnp.ones(length)}, jax.random.key(1))
    model = model_of(graphdef, state)
    assert model.seen[...] == 8
    assert model.weight[...] == 1 - 8
    assert len(traced) == 1
