"""Run by cores_test.py where a process has four CPU devices: what rows give on all of them, against one device."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from relpos import cores, device_memory
from relpos.attention import choices
from relpos.nn import (
    Decoder,
    Sampling,
    TokenEncoder,
    TransformerConfig,
    continue_rows,
    most_probable,
)
from relpos.training.step import init_state, make_train_step, model_of

SEEN = {}


def shares_are_even_and_fit_memory():
    small = jnp.zeros(10)
    found = [len(cores.sharing(rows, small)) for rows in (1, 2, 3, 4, 5, 6, 8, 9)]
    assert found == [1, 2, 3, 4, 1, 3, 4, 3], found
    available = device_memory.available
    try:
        for copies, most in ((2, 2), (1, 1), (0, 1)):  # copies of 40 bytes in a quarter of it
            device_memory.available = lambda copies=copies: copies * 4 * 40 + 39
            assert len(cores.sharing(4, small)) == most
        device_memory.available = lambda: None  # it does not say
        assert len(cores.sharing(4, small)) == 1
    finally:
        device_memory.available = available


def look(scale, state, batch):
    """What rows give: an array of rows, and a sum."""
    SEEN["layout"] = choices.layout(
        2048, 2048, consecutive=True, beyond=None, has_vectors=False
    ).rows
    return state["w"] * batch["x"] * scale, (batch["x"] ** 2).sum()


def rows_stay_in_order_and_sums_are_one_for_each_device():
    x = np.arange(24, dtype=np.float32).reshape(8, 3)
    for rows, devices in ((8, 4), (6, 3), (5, 1)):
        y, squares = cores.by_rows(look, (2.0,), {"w": jnp.float32(3.0)}, {"x": x[:rows]})
        np.testing.assert_array_equal(y, 6 * x[:rows])
        assert squares.shape == (devices,)
        assert cores.total(squares) == (x[:rows] ** 2).sum()
        assert SEEN["layout"] == (512 if devices == 1 else 256)
        parts = cores.parts((y, squares))
        assert len(parts) == devices
        assert all(leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(parts))
        np.testing.assert_array_equal(np.concatenate([part[0] for part in parts]), y)


class Model(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(5, 3, rngs=rngs)
        self.fixed = nnx.Variable(jnp.full(2, 0.1))


class Task:
    """Rows with numbers of targets of their own, some with none; it may drop logits."""

    def __init__(self, drops=False):
        self.drops = drops

    def init_model(self, rngs):
        return Model(rngs)

    def metrics(self, model, batch, key):
        logits = model.linear(batch["x"])
        if self.drops:
            logits *= jax.random.bernoulli(key, 0.5, logits.shape)
        nats = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        total, count = (nats * batch["weight"]).sum(), batch["weight"].sum()
        return {"loss": (total, count)}


def a_step_is_that_of_one_device():
    rng = np.random.default_rng(0)
    batch = {
        "x": rng.normal(size=(8, 6, 5)).astype(np.float32),
        "y": rng.integers(0, 3, (8, 6)),
        "weight": (np.arange(6) < np.array([6, 1, 2, 0, 0, 0, 3, 5])[:, None]).astype(np.float32),
    }
    steps = {}
    every, sharing = jax.local_devices(), cores.sharing
    for devices in (1, 2, 4):
        cores.sharing = lambda rows, model, n=devices: every[:n]
        graphdef, state = init_state(Task(), optax.adam(0.1), jax.random.key(0))
        step = make_train_step(Task(), graphdef, lambda done: 0.0)
        for _ in range(3):
            state, metrics = step(state, batch, jax.random.key(1))
        steps[devices] = jax.device_get((nnx.to_pure_dict(state), metrics))
        assert all(x.devices() == {every[0]} for x in jax.tree.leaves(state))
        model = model_of(graphdef, state)
        np.testing.assert_array_equal(model.fixed[...], np.float32(0.1))
    cores.sharing = sharing
    for devices in (2, 4):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
            steps[devices], steps[1],
        )  # fmt: skip


def devices_draw_their_own():
    """The same rows on each of them give other losses where logits are dropped, and else the same."""
    ones = {
        "x": np.ones((4, 6, 5), np.float32),
        "y": np.zeros((4, 6), int),
        "weight": np.ones((4, 6)),
    }
    of_devices, parts = [], cores.parts
    cores.parts = lambda result: of_devices.append(parts(result)) or of_devices[-1]
    for drops, differ in ((False, 1), (True, 4)):
        graphdef, state = init_state(Task(drops), optax.sgd(0.1), jax.random.key(0))
        make_train_step(Task(drops), graphdef, lambda done: 0.0)(state, ones, jax.random.key(1))
        losses = {float(share.metrics["loss"][0][0]) for share in of_devices[-1]}
        assert len(losses) == differ, losses
    cores.parts = parts


def rows_are_continued_and_read_as_on_one_device():
    random, seen = np.random.default_rng(0), []
    rows = [random.integers(1, 11, n).tolist() for n in random.integers(1, 40, 16)]
    how = {"max_new_tokens": 6, "stop": 0, "sampling": Sampling(), "key": jax.random.key(1)}
    cut = NamedSharding(jax.make_mesh((4,), ("x",), (AxisType.Auto,)), PartitionSpec("x"))
    every, sharing, together = jax.local_devices(), cores.sharing, cores._together
    cores._together = lambda *arguments: seen.append(1) or together(*arguments)
    for kind, read in ((Decoder, continue_rows), (TokenEncoder, most_probable)):
        sizes = TransformerConfig(num_layers=1, features=16, num_heads=2)
        graphdef, state = nnx.split(kind(sizes, vocab_size=11, rngs=nnx.Rngs(0)))
        state = jax.tree.map(lambda x: x + jnp.sin(jnp.arange(x.size)).reshape(x.shape), state)
        model, options, found = nnx.merge(graphdef, state), how if read is continue_rows else {}, []
        for devices in (1, 4):
            cores.sharing = lambda rows, model, n=devices: every[:n]
            found.append([row.tolist() for row in read(model, rows, **options)])
        assert found[0] == found[1]
        assert len({tuple(row) for row in found[0]}) > 8
        calls = len(seen)
        spread = jax.tree.map(lambda x: jax.device_put(x, cut) if x.shape[0] % 4 == 0 else x, state)
        found.append([r.tolist() for r in read(nnx.merge(graphdef, spread), rows, **options)])
        assert found[2] == found[0]
        assert len(seen) == calls  # as the layout of the parameters says
    assert seen
    cores.sharing, cores._together = sharing, together


def nothing_is_sent_between_devices():
    """A program that waits for another device can wait for good."""
    mesh = jax.make_mesh((4,), (cores._ROWS,), (jax.sharding.AxisType.Auto,))
    program = cores._together.lower(
        look, (2.0,), mesh, {"w": jnp.ones(())}, {"x": jnp.ones((8, 3))}
    )
    text = program.compile().as_text()
    for sent in ("all-reduce", "all-gather", "collective", "all-to-all"):
        assert sent not in text, text


if __name__ == "__main__":
    assert jax.device_count() == 4
    shares_are_even_and_fit_memory()
    rows_stay_in_order_and_sums_are_one_for_each_device()
    a_step_is_that_of_one_device()
    devices_draw_their_own()
    rows_are_continued_and_read_as_on_one_device()
    nothing_is_sent_between_devices()
