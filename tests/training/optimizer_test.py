import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from relpos import sections
from relpos.errors import UserError
from relpos.training import optimizer as optimizer_lib
from relpos.training import optimizers, schedules
from relpos.training.optimizers import muon

OPTIONS = optimizer_lib.OptimizerConfig(
    name="adamw",
    options={name: {"b1": 0.9, "b2": 0.99, "weight_decay": 0.1} for name in ("adamw", "muon")},
    learning_rate=0.5,
    warmup_steps=10,
    schedule="cosine",
    final_fraction=0.1,
    clip_norm=None,
)
NO_DECAY = {name: {"b1": 0.9, "b2": 0.99} for name in ("adamw", "muon")}


class Stack(nnx.Module):
    """Two stacked layers, as a scan over layers has them: every parameter has a layer axis."""

    def __init__(self):
        @nnx.vmap(in_axes=0)
        def layer(key):
            return nnx.Linear(3, 5, rngs=nnx.Rngs(key), bias_init=nnx.initializers.ones)

        self.layers = layer(jax.random.split(jax.random.key(0), 2))
        self.embed = nnx.Embed(7, 3, rngs=nnx.Rngs(1))


def rates(steps, **changes):
    schedule = optimizer_lib.learning_rate(dataclasses.replace(OPTIONS, **changes), steps)
    return np.array([schedule(step) for step in range(steps)])


def test_the_warm_up_ends_at_the_peak_and_loses_no_step():
    rate = rates(100)
    np.testing.assert_allclose(rate[:10], 0.5 * np.arange(1, 11) / 10, rtol=1e-6)


def test_the_count_may_be_unsigned():
    """nnx.Optimizer counts in uint32, optax in int32."""
    schedule = optimizer_lib.learning_rate(OPTIONS, 100)
    assert schedule(jnp.uint32(3)) == schedule(jnp.int32(3)) == schedule(3)


def test_cosine_decays_over_what_the_warm_up_leaves():
    rate, step = rates(110), np.arange(10, 110)
    expected = 0.5 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - 10) / 100)))
    np.testing.assert_allclose(rate[10:], expected, rtol=1e-5)
    assert rate[-1] >= 0.05


def test_wsd_falls_in_the_last_fifth_alone():
    rate = rates(110, schedule="wsd")
    np.testing.assert_allclose(rate[10:91], 0.5, rtol=1e-5)
    np.testing.assert_allclose(rate[90:], np.linspace(0.5, 0.05, 21)[:-1], rtol=1e-4)


def test_constant_stays():
    np.testing.assert_allclose(rates(50, schedule="constant")[10:], 0.5)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "wsd"])
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (5, 10), (10, 10), (3, 0)])
def test_runs_shorter_than_their_warm_up_have_a_rate(schedule, steps, warmup):
    rate = rates(steps, schedule=schedule, warmup_steps=warmup)
    assert np.all(rate > 0)
    assert np.all(rate <= 0.5)


def take_step(gradient, **changes):
    """Returns the parameters before and after one step, by path."""
    model = Stack()
    options = dataclasses.replace(OPTIONS, schedule="constant", warmup_steps=0, **changes)
    optimizer = nnx.Optimizer(
        model, optimizer_lib.create_optimizer(options, steps=10), wrt=nnx.Param
    )
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    gradients = jax.tree.map(gradient, nnx.state(model, nnx.Param))
    optimizer.update(model, gradients)
    return before, nnx.to_pure_dict(nnx.state(model, nnx.Param))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_kernels_alone_decay(name):
    before, after = take_step(jnp.zeros_like, name=name)
    shrunk = 1 - 0.5 * 0.1
    np.testing.assert_allclose(
        after["layers"]["kernel"], shrunk * before["layers"]["kernel"], rtol=1e-5
    )
    np.testing.assert_array_equal(after["layers"]["bias"], before["layers"]["bias"])
    np.testing.assert_array_equal(after["embed"]["embedding"], before["embed"]["embedding"])


def test_muon_turns_each_layer_of_a_stacked_kernel_by_itself():
    """Its update is near to a rotation for every layer, whatever the layers' scales are."""

    def gradient(parameter):
        values = jax.random.normal(jax.random.key(3), parameter.shape)
        return values.at[0].multiply(1000.0)

    before, after = take_step(gradient, name="muon", options=NO_DECAY)
    update = np.asarray(before["layers"]["kernel"] - after["layers"]["kernel"]) / 0.5
    update /= muon.RMS * np.sqrt(5)  # the larger side of [3, 5]
    for layer in update:
        singular = np.linalg.svd(layer, compute_uv=False)
        assert np.all(singular > 0.5)
        assert np.all(singular < 1.5)


def test_muon_leaves_everything_but_kernels_to_adam():
    before, after = take_step(jnp.ones_like, name="muon", options=NO_DECAY)
    nadam = optax.nadam(0.5, 0.9, 0.99)
    for path in (("layers", "bias"), ("embed", "embedding")):
        start, end = before[path[0]][path[1]], after[path[0]][path[1]]
        update, _ = nadam.update(jnp.ones_like(start), nadam.init(start))
        np.testing.assert_allclose(end, start + update, rtol=1e-4)


def test_gradients_are_clipped_by_their_global_norm():
    def updates(clip_norm, scale):
        tx = optimizer_lib.create_optimizer(
            dataclasses.replace(OPTIONS, clip_norm=clip_norm, options=NO_DECAY), steps=10
        )
        params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
        state = tx.init(params)
        _, state = tx.update(jax.tree.map(lambda p: scale * p, params), state, params)
        return state[1][0].mu["bias"]  # Adam's first moment, (1 - b1) * gradient

    np.testing.assert_allclose(updates(None, 100.0), 10.0, rtol=1e-5)
    np.testing.assert_allclose(updates(1.0, 100.0), 0.1 / np.sqrt(6), rtol=1e-5)
    np.testing.assert_allclose(updates(1.0, 0.1), 0.01, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adamv"},
         rf"must be one of {', '.join(optimizers.names())}, got 'adamv': did you mean 'adamw'"),
        ({"schedule": "cos"}, r"'optimizer\.schedule' .* did you mean 'cosine'"),
        ({"schedule": "x"}, f"one of {', '.join(schedules.names())}, got 'x'"),
        ({"options": {"muon": {"b1": 1.0}}}, r"section 'optimizer': b1 must be in \[0, 1\), got 1\.0"),
        ({"options": {"adamw": {"weight_decay": -1.0}}}, r"weight_decay must be in \[0, inf\)"),
        ({"options": {"adamw": {"weigth_decay": 1.0}}},
         r"'optimizer\.options\.adamw\.weigth_decay': did you mean 'weight_decay'"),
        ({"schedules": {"wsd": {"decay": 0}}}, r"decay must be in \(0, 1\], got 0"),
        ({"learning_rate": 0.0}, r"'optimizer\.learning_rate' must be a number above 0"),
        ({"learning_rate": float("inf")}, r"'optimizer\.learning_rate' must be a finite number"),
        ({"warmup_steps": -1}, r"'optimizer\.warmup_steps' must be a whole number of at least 0"),
        ({"clip": 1.0}, r"unknown config key 'optimizer\.clip': did you mean 'clip_norm'"),
    ],
)  # fmt: skip
def test_options_are_checked(changes, message):
    with pytest.raises(UserError, match=message):
        sections.read(optimizer_lib.OptimizerConfig, changes, prefix="optimizer.")
