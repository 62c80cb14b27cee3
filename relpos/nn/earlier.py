"""The earlier inputs of a layer: Transformer-XL's recurrence from segment to segment."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Earlier:
    """One layer's inputs at the M tokens before the current ones.

        keys and values from [SG(earlier); x],  queries from x;  query i stands at M + i

    Dai et al. 2019, "Transformer-XL", arXiv:1901.02860, sec. 3.2. SG stops the gradient. A row's tokens are
    right-aligned, without padding between. A `Cache` holds keys, values and an encoding's state, for decoding; this
    holds inputs, for training on a text segment by segment.

    Attributes:
      inputs: [B, M, D].
      segments: ids of packed documents, like those of x; 0 where a row has had fewer than M tokens, [B, M].
    """

    inputs: Float[Array, "B M D"]
    segments: Int[Array, "B M"]

    @classmethod
    def of(cls, inputs_BMD: Float[Array, "B M D"], segments: Any = None) -> "Earlier":
        """Make it from inputs, whose gradient is stopped, and segment ids [B, M]; None: all tokens are in segment 1."""
        if segments is None:
            segments = jnp.ones(inputs_BMD.shape[:2], jnp.int32)
        return cls(jax.lax.stop_gradient(inputs_BMD), jnp.asarray(segments, jnp.int32))

    @property
    def length(self) -> int:
        """Return M."""
        return self.segments.shape[-1]

    def of_layer(self, layer: int) -> "Earlier":
        """Return the inputs of one layer, where those of several are stacked."""
        return jax.tree.map(lambda x: x[layer], self)

    def ids_with(self, shape: tuple[int, ...], segments: Any) -> Int[Array, "B S"]:
        """Return the segment ids of these tokens and of [B, T] more; None: 1 for the latter."""
        ids_BT = jnp.ones(shape, jnp.int32) if segments is None else segments
        ids_BT = jnp.broadcast_to(jnp.asarray(ids_BT, jnp.int32), shape)
        return jnp.concatenate([self.segments, ids_BT], 1)

    def inputs_with(self, x_BTD: Float[Array, "B T D"]) -> Float[Array, "B S D"]:
        """Return these inputs and those of T more tokens."""
        return jnp.concatenate([self.inputs.astype(x_BTD.dtype), x_BTD], 1)

    def then(self, x_BTD: Float[Array, "B T D"], segments: Any = None) -> "Earlier":
        """Return the last M inputs of these and x, for the next segment."""
        ids_BS = self.ids_with(x_BTD.shape[:2], segments)
        last_BM = jnp.argsort(ids_BS != 0, axis=1, stable=True)[:, -self.length :]
        inputs_BMD = jnp.take_along_axis(self.inputs_with(x_BTD), last_BM[:, :, None], 1)
        ids_BM = jnp.take_along_axis(ids_BS, last_BM, 1)
        return Earlier.of(inputs_BMD.astype(self.inputs.dtype), ids_BM)


def check_earlier(earlier: Earlier, x_BTD: Array) -> None:
    """Check that the shapes of earlier inputs fit those of x."""
    if earlier.inputs.ndim != 3 or earlier.inputs.shape[::2] != x_BTD.shape[::2]:
        raise ValueError(
            f"earlier inputs must be [B, M, D] of the rows and the width of x {list(x_BTD.shape)}, got "
            f"{list(earlier.inputs.shape)}"
        )
    if earlier.segments.shape != earlier.inputs.shape[:2]:
        raise ValueError(
            f"the segments of earlier inputs must be {list(earlier.inputs.shape[:2])}, got "
            f"{list(earlier.segments.shape)}"
        )
