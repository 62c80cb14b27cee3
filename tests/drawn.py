"""Models whose numbers NumPy draws: where JAX draws them it compiles programs for each shape of a parameter."""

import functools

import jax
import numpy as np
from flax import nnx

from relpos import encodings
from relpos.attention import PerHeadConstant


def drawn(make, config, *, seed=0, size=0.3):
    """The graph and the state of a model. Nothing is zero or alike: a part that is not wired up must show.

    An encoding's parameters are about what they begin with, a norm's about one, all others about zero.

    Args:
      make: a function that makes the model.
      config: a stack's sizes and schemes; the model has no other schemes.
      seed: of the numbers.
      size: their standard deviation.
    """
    random = np.random.default_rng(seed)
    sizes = config.num_heads, config.num_kv_heads, config.head_size, config.features
    middles: dict = {}
    for name in config.encodings:
        for path, begins in _begin(name, *sizes):
            middles.setdefault(path, []).append(begins)

    def numbers(path, variable):
        spread = 0 if isinstance(variable, PerHeadConstant) else size
        drawn = middle(path, variable.shape) + spread * random.normal(size=variable.shape)
        # To turn them into another type, or `jnp.asarray`, would be programs too.
        return variable.replace(jax.device_put(drawn.astype(variable.dtype)))

    def middle(path, shape):
        if "encoding" in path:
            found = middles[path[path.index("encoding") + 1 :]]
        elif "input_encodings" in path:  # a list
            found = middles[path[path.index("input_encodings") + 2 :]]
        else:
            return float(path[-1] == "scale")
        return next(x for x in found if shape[len(shape) - x.ndim :] == x.shape)

    graphdef, state = nnx.split(nnx.eval_shape(make))
    flat = [(path, numbers(path, variable)) for path, variable in nnx.to_flat_state(state)]
    return graphdef, nnx.from_flat_state(flat)


@functools.lru_cache(1)
def _begin(name, heads, key_heads, head_dim, features):
    """What the parameters of an encoding begin with, where keys stand on one side and on both."""
    has_forms = "bidirectional" in encodings.options(name)
    forms: list[dict] = [{}, {"bidirectional": True}] if has_forms else [{}]

    def of_form(form):
        return nnx.state(
            encodings.create(
                name, num_heads=heads, num_kv_heads=key_heads, head_dim=head_dim,
                features=features, rngs=nnx.Rngs(0), **form,
            )
        )  # fmt: skip

    # One program, not one for each operation.
    states = jax.jit(lambda: list(map(of_form, forms)))()
    return [
        (path, np.asarray(variable[...]))
        for state in states
        for path, variable in nnx.to_flat_state(state)
    ]
