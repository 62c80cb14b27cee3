"""The kinds of MLP: W_2 f(W_1 x), or with a gate W_2 (f(W_g x) * W_1 x)."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_GELU = functools.partial(jax.nn.gelu, approximate=False)
_GELU_TANH = functools.partial(jax.nn.gelu, approximate=True)


class Kind(NamedTuple):
    """What an MLP does between its two products."""

    function: Callable[[Array], Array]  # f, the activation function
    gated: bool = False  # whether the first product is [W_g; W_1] x

    def hidden(self, h_BTM: Float[Array, "B T M"]) -> Float[Array, "B T M_"]:
        """Return what the second product reads, from the output of the first."""
        if not self.gated:
            return self.function(h_BTM)
        gate, up = jnp.split(h_BTM, 2, axis=-1)
        return self.function(gate) * up


KINDS = {
    "relu2": Kind(lambda h: jax.nn.relu(h) ** 2),  # So et al. 2021, arXiv:2109.08668
    "relu": Kind(jax.nn.relu),
    "gelu": Kind(_GELU),  # BERT, GPT-NeoX
    "gelu_tanh": Kind(_GELU_TANH),  # GPT-2, GPT-J
    "swiglu": Kind(jax.nn.silu, gated=True),  # Shazeer 2020, arXiv:2002.05202; Llama
    "geglu": Kind(_GELU, gated=True),
    "geglu_tanh": Kind(_GELU_TANH, gated=True),  # T5 v1.1, Gemma
}
