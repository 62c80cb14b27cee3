"""Gives a foreign module and ours the same arrays, and compares outputs and all gradients.

Ours is a function of the other module's parameters, under their names there, so that JAX's gradients can be compared
name by name. The parameters are random: nothing is downloaded.
"""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import relpos
from relpos import encodings

torch.set_num_threads(1)

# Tolerances relative to an array's largest number. FLOAT32 is for modules that always compute in it.
FLOAT64, FLOAT32 = 1e-9, 1e-5
ROUNDING = 1e-5


def random(*shape, seed=0, std=1.0):
    return std * np.random.default_rng(seed).normal(size=shape)


def randomised(module, *, std=0.3, dtype=torch.float64):
    """Return the module with random parameters, so that no zero hides a mistake, and without dropout."""
    draw = torch.Generator().manual_seed(1)
    module = module.to(dtype).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=std, generator=draw)
    return module


def assert_agree(theirs, ours, inputs, *, module=None, rows=None, tolerance=FLOAT64, case):
    """Compare outputs, and gradients of inputs and parameters.

    Args:
      theirs: called with the inputs as tensors; returns a tensor.
      ours: called with the module's parameters, a dict of arrays, and the inputs as arrays; returns an array.
      inputs: NumPy arrays by name.
      module: its parameters are compared; None: there are none.
      rows: [B, T], which of the output [B, T, D] count, as that of padding is undefined; None: all.
      tolerance: for each array, times its largest number or 1, whichever is greater.
      case: the name of the case in failures.

    Returns:
      A pair for each array: the largest difference, absolute and relative to the array's largest number.
    """
    parameters = {} if module is None else dict(module.named_parameters())
    dtype = next(iter(parameters.values())).dtype if parameters else torch.float64
    tensors = {name: torch.tensor(x, dtype=dtype, requires_grad=True) for name, x in inputs.items()}
    counted = 1.0 if rows is None else np.asarray(rows, float)[..., None]
    out = theirs(**tensors) * torch.tensor(counted, dtype=dtype)
    weight = random(*out.shape, seed=9)
    grads = torch.autograd.grad(
        (out * torch.tensor(weight, dtype=out.dtype)).sum(),
        [*tensors.values(), *parameters.values()],
        allow_unused=True,
        materialize_grads=True,
    )
    expected = {"output": out, **dict(zip([*tensors, *parameters], grads, strict=True))}

    def loss(p, arrays):
        out = ours(p, **arrays) * counted
        return (out * weight).sum(), out

    arrays = {name: jnp.asarray(x.detach().numpy()) for name, x in tensors.items()}
    p = {name: jnp.asarray(x.detach().numpy()) for name, x in parameters.items()}
    (_, out), (of_p, of_arrays) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(p, arrays)
    found = {"output": out, **of_arrays, **of_p}
    assert found["output"].shape == expected["output"].shape, case
    assert jnp.abs(found["output"]).max() > 0, case
    return [
        _difference(found[name], x.detach().numpy(), tolerance, f"{case}: {name}")
        for name, x in expected.items()
    ]


def _difference(found, expected, tolerance, name):
    """Check an array; return the largest difference, absolute and relative to the largest number expected."""
    largest = float(np.abs(expected).max(initial=0))
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance * max(1.0, largest), err_msg=name
    )
    absolute = float(np.abs(np.asarray(found) - expected).max(initial=0))
    # A gradient may be zero but for rounding, as of what all keys share: a ratio would mean nothing.
    return absolute, absolute / largest if largest > ROUNDING else absolute


def linear(p, name, x):
    """torch.nn.Linear: the kernel is [out, in]."""
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def rms_norm(x, weight, epsilon):
    return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def heads(x_BTD, num_heads):
    return x_BTD.reshape(*x_BTD.shape[:2], num_heads, -1)


def joined(x_BTNH):
    return x_BTNH.reshape(*x_BTNH.shape[:2], -1)


def encoding_of(
    name, num_heads, head_dim, *, parameters=None, key_heads=None, features=None, **options
):
    """Make a scheme whose parameters, by attribute name, are these arrays."""
    encoding = encodings.create(
        name, num_heads=num_heads, num_kv_heads=key_heads, head_dim=head_dim, features=features,
        rngs=nnx.Rngs(0), **options,
    )  # fmt: skip
    parameters = parameters or {}
    own = {
        key: variable
        for part in encoding.parts
        for key, variable in vars(part).items()
        if isinstance(variable, nnx.Param)
    }
    assert own.keys() == parameters.keys(), f"{name} has {[*own]}, given were {[*parameters]}"
    for key, value in parameters.items():
        assert own[key].shape == value.shape, f"{name}.{key}: {own[key].shape}, {value.shape}"
        own[key][...] = value
    return encoding


def attend(p, x, encoding, num_heads, names, *, key_heads=None, **options):
    """Return attention with these names of projections, of queries, keys, values and the output (None: no output)."""
    counts = (num_heads, key_heads or num_heads, key_heads or num_heads)
    q, k, v = (
        heads(linear(p, name, x), count) for name, count in zip(names[:3], counts, strict=True)
    )
    out = joined(relpos.attention(q, k, v, encoding=encoding, **options))
    return out if names[3] is None else linear(p, names[3], out)


def hidden(visible):
    """Return the mask that torch modules add to logits: 0 for visible pairs, a very low number elsewhere."""
    return torch.where(
        torch.as_tensor(np.array(visible)), 0.0, torch.finfo(torch.float32).min
    ).double()


def left_padded(length, padding):
    """Return segments [2, length] of a whole row and a left-padded one; 0 is padding."""
    return np.array([[1] * length, [0] * padding + [1] * (length - padding)])


def seen_by(segments, *, causal, window=None):
    """Return [B, 1, T, T], True where a query sees a key; window: only |distance| below it."""
    segments = np.asarray(segments)
    seen = (segments[:, :, None] == segments[:, None]) & (segments != 0)[:, None]
    d = np.subtract.outer(np.arange(seen.shape[-1]), np.arange(seen.shape[-1]))
    if causal:
        seen = seen & (d >= 0)
    if window is not None:
        seen = seen & (abs(d) < window)
    return seen[:, None]
