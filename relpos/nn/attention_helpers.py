"""What self- and cross-attention share: checks, dropout options, norms of queries and keys."""

import functools
import logging
from collections.abc import Callable
from typing import Any

from flax import nnx
from jaxtyping import Array

from relpos import encodings
from relpos.encodings import Encoding

_log = logging.getLogger(__name__)


def check_input(x_BTD: Array) -> None:
    """Check that an input has three axes."""
    if x_BTD.ndim != 3:
        hint = ": give it a batch axis, x[None]" if x_BTD.ndim == 2 else ""
        raise ValueError(f"the input must be [B, T, D], got {list(x_BTD.shape)}{hint}")


def dropout_options(
    rate: float, key: Array | None, deterministic: bool | None = None
) -> dict[str, Any]:
    """Return the dropout arguments of `relpos.attention`; none if dropout is off.

    Raises:
      ValueError: deterministic=False and a rate, but no key.
    """
    if not rate or deterministic:
        return {}
    if key is not None:
        return {"dropout_rate": rate, "dropout_key": key}
    if deterministic is None:
        _log_no_dropout(rate)
        return {}
    raise ValueError(f"dropout_rate={rate} with deterministic=False needs a dropout_key")


@functools.cache
def _log_no_dropout(rate: float) -> None:
    _log.warning(
        "a layer with dropout_rate=%s was called without a dropout_key, so nothing is dropped: pass a key in "
        "training, or deterministic=True to say that this is meant",
        rate,
    )


def check_heads(
    num_heads: int,
    width: int,
    num_kv_heads: int | None,
    head_dim: int | None,
    name: str = "in_features",
) -> tuple[int, int]:
    """Return K and H, and check that the sizes divide; `name` is the width's name in messages."""
    if num_heads < 1 or width < 1:
        raise ValueError(f"num_heads and {name} must be positive, got {num_heads}, {width}")
    if head_dim is None and width % num_heads:
        raise ValueError(
            f"{name}={width} does not divide into num_heads={num_heads} heads: choose a multiple or give head_dim"
        )
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    if num_kv_heads < 1 or num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads={num_heads} query heads cannot share num_kv_heads={num_kv_heads} evenly: "
            "num_kv_heads must divide num_heads"
        )
    return num_kv_heads, width // num_heads if head_dim is None else head_dim


def head_norms(
    wanted: bool, head_dim: int, epsilon: float, dtype: Any, rngs: nnx.Rngs
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
    """Return RMS norms over H for queries and keys; identities unless `wanted`."""
    if not wanted:
        return unchanged, unchanged
    make = functools.partial(nnx.RMSNorm, head_dim, epsilon=epsilon, dtype=dtype, rngs=rngs)
    return make(), make()


def unchanged(x: Array) -> Array:
    """Return x, in place of a norm."""
    return x


def no_positions() -> Encoding:
    """Return an encoding that fills no slot."""
    return Encoding(dims=encodings.Dims(1, 1, 1), rngs=nnx.Rngs(0))
