import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from relpos.errors import UserError
from relpos.sections import read
from relpos.training import memory
from relpos.training.run_config import TransformerRunConfig

CONFIG = read(
    TransformerRunConfig,
    {
        "task": "x",
        "batch_size": 3,
        "sequence_length": 10**9,
        "encoding": "rope, shaw",
        "encodings": {"shaw": {"k": 10**9, "keys": True}, "learned": {"max_length": 10**9}},
        "model": {"features": 64},
    },
)


def state(**shapes):
    return nnx.State({n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()})


def test_what_fits_is_let_through():
    memory.check_model(CONFIG, state(a=(7,)), optimizer=state(a=(7,)), activations=100)


def test_what_does_not_is_told_with_its_parts_the_biggest_parameter_and_the_keys_behind_it():
    model = state(small=(3,), keys=(2 * 10**9 + 1, 64, 1), other=(64, 64))
    with pytest.raises(UserError) as caught:
        memory.check_model(CONFIG, model, optimizer=model, activations=10**9)
    message = str(caught.value)
    assert message.startswith(
        "this needs at least 1.5 TB of memory (parameters 512.0 GB, gradients 512.0 GB, optimizer 512.0 GB, "
        "activations of a batch 1.0 GB), and there are only "
    )
    assert message.endswith(
        "B: the biggest parameter is keys [2000000001, 64, 1]; make encodings.shaw.k=1000000000 or "
        "model.features=64 smaller"
    )
    with pytest.raises(UserError, match=r"\(parameters 512\.0 GB\), .*: the biggest"):
        memory.check_model(CONFIG, model)


def test_a_batch_that_does_not_fit_is_told_by_its_own_keys():
    with pytest.raises(
        UserError, match=r"make sequence_length=1000000000 or batch_size=3 smaller$"
    ):
        memory.check_model(CONFIG, state(a=(7,)), activations=10**15)
